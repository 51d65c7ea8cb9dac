"""The scenarios of start, stop and load, a few times each: that they work, and that their faults still bite."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from tests.faults import load, much, slow, starts, stops

pytestmark = pytest.mark.alone


@pytest.mark.parametrize("scenario", [*slow.ONCE, *much.ONCE], ids=lambda one: one.__name__)
async def test_nobody_takes_more_than_their_part(tmp_path: Path, scenario: slow.Scenario) -> None:
    for result in await scenario(tmp_path, f"sqlite:///{tmp_path / 'data'}", True):
        assert result.holds, result


@pytest.mark.parametrize(
    "scenario", [*starts.ON_POSTGRESQL, *stops.ON_POSTGRESQL, *load.ON_POSTGRESQL], ids=lambda one: one.__name__
)
async def test_processes_start_stop_and_shed_as_they_should(
    tmp_path: Path, new_database: Callable[[str], URL], scenario: stops.Scenario
) -> None:
    for result in await scenario(tmp_path, new_database("faults").render_as_string(hide_password=False), True):
        assert result.holds, result
