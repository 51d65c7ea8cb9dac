"""The scenarios of start, stop and load, a few times each: they work, and their faults still occur."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from tests.faults import load, much, slow, starts, stops
from tests.faults.harness import assert_all_hold

pytestmark = pytest.mark.slow

# The others have no limit of time that another test could break.
_ALONE = (*slow.ONCE, load.overload, starts.failed_starts)


def _each(*scenarios: stops.Scenario) -> list[object]:
    return [pytest.param(one, id=one.__name__, marks=[pytest.mark.alone] if one in _ALONE else []) for one in scenarios]


@pytest.mark.parametrize("scenario", _each(*slow.ONCE, *much.ONCE))
async def test_no_client_uses_more_than_its_share(tmp_path: Path, scenario: slow.Scenario) -> None:
    assert_all_hold(await scenario(tmp_path, f"sqlite:///{tmp_path / 'data'}", True))


@pytest.mark.parametrize("scenario", _each(*starts.ON_POSTGRESQL, *stops.ON_POSTGRESQL, *load.ON_POSTGRESQL))
async def test_processes_start_stop_and_refuse_excess_load(
    tmp_path: Path, new_database: Callable[[str], URL], scenario: stops.Scenario
) -> None:
    assert_all_hold(await scenario(tmp_path, new_database("faults").render_as_string(hide_password=False), True))
