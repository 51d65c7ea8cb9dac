"""The scenarios of bombs, at once or nearly so."""

from pathlib import Path

import pytest

from tests.faults import bombs

pytestmark = pytest.mark.alone


@pytest.mark.parametrize("scenario", bombs.ONCE, ids=lambda one: one.__name__)
async def test_what_is_enormous_when_decoded_hurts_nobody(tmp_path: Path, scenario: bombs.Scenario) -> None:
    for result in await scenario(tmp_path, f"sqlite:///{tmp_path / 'data'}", True):
        assert result.holds, str(result)
