"""The scenarios of subscribers that die, a few kills each."""

from pathlib import Path

import pytest

from tests.faults import subscribers
from tests.faults.harness import assert_all_hold

pytestmark = pytest.mark.slow


@pytest.mark.timeout(300)
@pytest.mark.parametrize("scenario", subscribers.ON_BOTH, ids=lambda one: one.__name__)
async def test_a_subscriber_that_dies_loses_and_doubles_no_message(
    tmp_path: Path, empty_url: str, scenario: subscribers.Scenario
) -> None:
    assert_all_hold(await scenario(tmp_path, empty_url, True))
