"""kill -9 during uploads, once at each step."""

from pathlib import Path

import pytest

from tests.faults import uploads
from tests.faults.harness import assert_all_hold

pytestmark = pytest.mark.slow


async def test_no_row_is_without_its_bytes_and_the_sweep_finds_orphaned_files(tmp_path: Path, empty_url: str) -> None:
    assert_all_hold(await uploads.killed_while_uploading(tmp_path, empty_url, True))
