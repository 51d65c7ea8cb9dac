"""The scenarios of uploads, at once or nearly so."""

from pathlib import Path

import pytest

from tests.faults import uploads


@pytest.mark.parametrize("scenario", uploads.ONCE, ids=lambda one: one.__name__)
async def test_what_is_enormous_when_decoded_hurts_nobody(tmp_path: Path, scenario: uploads.Scenario) -> None:
    for result in await scenario(tmp_path, f"sqlite:///{tmp_path / 'data'}", True):
        assert result.holds, result
