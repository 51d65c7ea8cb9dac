"""Callers who leave, a few hundred times."""

from pathlib import Path

import pytest

from tests.faults import aborted
from tests.faults.harness import assert_all_hold

pytestmark = pytest.mark.slow


async def test_who_leaves_takes_nothing_along(tmp_path: Path, empty_url: str) -> None:
    assert_all_hold(await aborted.aborted(tmp_path, empty_url, True))
