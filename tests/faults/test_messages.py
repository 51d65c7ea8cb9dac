"""The scenarios of `make faults`, a few times each: that they work, and that their faults still bite."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from tests.faults import messages
from tests.faults.harness import assert_all_hold

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("scenario", messages.ON_BOTH, ids=lambda one: one.__name__)
async def test_nothing_is_lost_and_nothing_happens_twice(
    tmp_path: Path, empty_url: str, scenario: messages.Scenario
) -> None:
    assert_all_hold(await scenario(tmp_path, empty_url, True))


@pytest.mark.parametrize("scenario", [messages.deaf, messages.a_million_done], ids=lambda one: one.__name__)
async def test_who_waits_is_told_or_looks(
    tmp_path: Path, new_database: Callable[[str], URL], scenario: messages.Scenario
) -> None:
    assert_all_hold(await scenario(tmp_path, new_database("faults").render_as_string(hide_password=False), True))
