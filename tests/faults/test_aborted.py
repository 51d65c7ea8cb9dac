"""The scenario of clients that disconnect, with a few hundred requests."""

from pathlib import Path

import pytest

from tests.faults import aborted
from tests.faults.harness import assert_all_hold

pytestmark = pytest.mark.slow


async def test_a_client_that_disconnects_loses_no_connection_and_no_transaction(tmp_path: Path, empty_url: str) -> None:
    assert_all_hold(await aborted.aborted(tmp_path, empty_url, True))
