"""The scenarios of upstreams that fail, for a short while each."""

from pathlib import Path

import pytest

from tests.faults import upstreams

pytestmark = pytest.mark.alone


@pytest.mark.parametrize("scenario", upstreams.ONCE, ids=lambda one: one.__name__)
async def test_a_call_is_bounded_and_spares_the_upstream_and_others(
    tmp_path: Path, scenario: upstreams.Scenario
) -> None:
    for result in await scenario(tmp_path, f"sqlite:///{tmp_path / 'data'}", True):
        assert result.holds, result
