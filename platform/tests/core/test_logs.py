"""Each log line names its request, trace and module."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kernel.logging import configure_logging
from kernel.settings import LogSettings
from tests.core.project import running_project

pytestmark = pytest.mark.usefixtures("own_logging")

_ROUTER = """
import logging
import structlog
from fastapi import APIRouter
from kernel import public

router = APIRouter(dependencies=[public])

@router.get("/said")
async def say() -> int:
    structlog.get_logger("tea").info("said", api_key="sesame")
    logging.getLogger("a.library").warning("said plainly")
    return 1

@router.get("/failed")
async def fail() -> int:
    raise RuntimeError("no water")
"""
_TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
_HEADERS = {"X-Request-ID": "mine", "traceparent": f"00-{_TRACE_ID}-b7ad6b7169203331-01"}


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


async def test_every_line_of_a_request_has_its_id_its_trace_and_its_module(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(LogSettings(format="json", level="INFO"))
    async with running_project(tmp_path, {"tea/router.py": _ROUTER}) as (_, client):
        capsys.readouterr()
        await client.get("/api/v1/tea/said", headers=_HEADERS)
        await client.get("/api/v1/tea/failed", headers=_HEADERS)
        lines = _lines(capsys)
    of_module = [line for line in lines if line["event"] != "request"]
    assert {line["logger"] for line in of_module} == {"tea", "a.library", "kernel.errors"}
    for line in of_module:
        assert (line["request_id"], line["trace_id"], line["module"]) == ("mine", _TRACE_ID, "tea")
        assert "traceparent" not in line
    assert "sesame" not in str(lines)


async def test_a_line_outside_modules_names_no_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(format="json", level="INFO"))
    async with running_project(tmp_path, {"tea/router.py": _ROUTER}) as (_, client):
        capsys.readouterr()
        await client.get("/nowhere")
        lines = _lines(capsys)
    assert [line["event"] for line in lines] == ["request"]
    assert lines[0].keys().isdisjoint({"module", "trace_id"})


_WARNING = """
import io, warnings
from kernel.logging import configure_logging
from kernel.settings import LogSettings

configure_logging(LogSettings(format="json", level="INFO"))
for number in range(1000):
    warnings.warn(f"tag {number} is odd" + "." * 10_000, UserWarning)
warnings.warn("another place", DeprecationWarning)
text = io.StringIO()
warnings.showwarning("to a file", UserWarning, "a.py", 1, text)
assert "to a file" in text.getvalue()
"""


@pytest.mark.integration
def test_a_warning_of_a_library_is_one_line_of_json_for_each_place_in_the_code() -> None:
    """One file made a library of images write 116,398 lines that were not JSON."""
    done = subprocess.run([sys.executable, "-c", _WARNING], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    first, second = [json.loads(line) for line in done.stdout.splitlines()]
    assert (first["logger"], first["level"], first["category"]) == ("py.warnings", "warning", "UserWarning")
    assert first["event"].startswith("tag 0 is odd")
    assert len(first["event"]) == 500
    assert (second["event"], second["category"]) == ("another place", "DeprecationWarning")
    assert second["at"] == "<string>:9"
