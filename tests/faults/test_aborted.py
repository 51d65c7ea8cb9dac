"""Callers who leave, a few hundred times."""

from pathlib import Path

from tests.faults import aborted


async def test_who_leaves_takes_nothing_along(tmp_path: Path, empty_url: str) -> None:
    for result in await aborted.aborted(tmp_path, empty_url, True):
        assert result.holds, str(result)
