"""The scenarios of pictures that are enormous when decoded, a few at once."""

from pathlib import Path

import pytest

from tests.faults import bombs
from tests.faults.harness import assert_all_hold

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.mark.parametrize("scenario", bombs.ONCE, ids=lambda one: one.__name__)
async def test_pictures_that_are_enormous_when_decoded_do_not_delay_others(
    tmp_path: Path, scenario: bombs.Scenario
) -> None:
    assert_all_hold(await scenario(tmp_path, f"sqlite:///{tmp_path / 'data'}", True))
