"""The scenarios of bombs, at once or nearly so."""

from pathlib import Path

import pytest

from tests.faults import bombs
from tests.faults.harness import assert_all_hold

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.mark.parametrize("scenario", bombs.ONCE, ids=lambda one: one.__name__)
async def test_what_is_enormous_when_decoded_hurts_nobody(tmp_path: Path, scenario: bombs.Scenario) -> None:
    assert_all_hold(await scenario(tmp_path, f"sqlite:///{tmp_path / 'data'}", True))
