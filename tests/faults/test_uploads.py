"""Uploads that are killed, once at each step."""

from pathlib import Path

from tests.faults import uploads


async def test_no_row_is_without_its_bytes_and_the_sweep_finds_the_rest(tmp_path: Path, empty_url: str) -> None:
    for result in await uploads.killed_while_uploading(tmp_path, empty_url, True):
        assert result.holds, str(result)
