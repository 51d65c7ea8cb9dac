"""The scenarios of `make faults`, a few times each: they work, and their faults still occur."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from tests.faults import messages
from tests.faults.harness import assert_all_hold

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("scenario", messages.ON_BOTH, ids=lambda one: one.__name__)
async def test_no_message_is_lost_or_takes_effect_twice(
    tmp_path: Path, empty_url: str, scenario: messages.Scenario
) -> None:
    assert_all_hold(await scenario(tmp_path, empty_url, True))


@pytest.mark.parametrize("scenario", [messages.deaf, messages.a_million_done], ids=lambda one: one.__name__)
async def test_waiting_relays_are_notified_or_poll(
    tmp_path: Path, new_database: Callable[[str], URL], scenario: messages.Scenario
) -> None:
    assert_all_hold(await scenario(tmp_path, new_database("faults").render_as_string(hide_password=False), True))
