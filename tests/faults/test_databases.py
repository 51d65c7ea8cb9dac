"""The scenarios of a database that fails, a few times each."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from tests.faults import databases
from tests.faults.harness import assert_all_hold

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.mark.parametrize("scenario", databases.ONCE, ids=lambda one: one.__name__)
async def test_requests_are_answered_in_time_and_no_write_is_lost(tmp_path: Path, scenario: databases.Scenario) -> None:
    assert_all_hold(await scenario(tmp_path, "", True))


async def test_connections_that_end_at_once_are_replaced(tmp_path: Path, new_database: Callable[[str], URL]) -> None:
    url = new_database("killed").render_as_string(hide_password=False)
    assert_all_hold(await databases.killed_connections(tmp_path, url, True))
