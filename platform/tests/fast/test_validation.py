"""The errors of each value are limited before FastAPI lists them; the responses equal those of the core."""

from pathlib import Path
from typing import Any

import pytest

from kernel.ext.fast.validation import few
from tests.core.project import running_project
from tests.core.test_problems import BASE, PATHS, ROUTER

BODIES = {
    "no error": {"numbers": [1]},
    "one": {"numbers": ["x"]},
    "unknown fields": {f"k{number}": 1 for number in range(9_000)},
    "wrong numbers": {"numbers": ["x"] * 15_000},
    "wrong values": {"named": {f"k{number}": "x" for number in range(5_000)}},
    "refused by a validator": {"checked": [{"name": ""}] * 5_000},
}


async def answers(folder: Path, **options: Any) -> dict[str, Any]:
    found = {}
    async with running_project(folder, {"probe/router.py": ROUTER}, **options) as (_, client):
        for path in PATHS:
            for name, body in BODIES.items():
                answer = await client.post(f"{BASE}{path}", json=body, headers={"x-request-id": "same"})
                found[f"{path}: {name}"] = (answer.status_code, answer.text)
    return found


async def test_the_responses_equal_those_of_the_core(tmp_path: Path) -> None:
    with_fast = await answers(tmp_path / "fast")
    alone = await answers(tmp_path / "core", extensions=())
    assert with_fast == alone


@pytest.mark.parametrize("compiled", ["true", "false"])
@pytest.mark.parametrize("path", PATHS)
async def test_only_the_listed_errors_are_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, compiled: str
) -> None:
    counts = []

    def counted(error: Any) -> Any:
        counts.append((error.error_count(), few(error).error_count()))
        return few(error)

    monkeypatch.setattr("kernel.ext.fast.validation.few", counted)
    variables = {"APPLICATION_COMPILED_ENDPOINTS": compiled}
    async with running_project(tmp_path, {"probe/router.py": ROUTER}, variables) as (_, client):
        assert (await client.post(f"{BASE}{path}", json=BODIES["wrong numbers"])).status_code == 422
    assert counts == [(15_000, 101)]
