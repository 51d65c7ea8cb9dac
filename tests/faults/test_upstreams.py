"""The scenarios of upstreams that fail, for a short while each."""

from pathlib import Path

import pytest

from tests.faults import upstreams
from tests.faults.harness import assert_all_hold

pytestmark = pytest.mark.slow

# Another test beside this one would change the measured latencies of the other upstreams.
_SCENARIOS = [
    pytest.param(one, id=one.__name__, marks=[pytest.mark.alone] if one is upstreams.others_go_on else [])
    for one in upstreams.ONCE
]


@pytest.mark.parametrize("scenario", _SCENARIOS)
async def test_a_call_ends_in_time_and_does_not_overload_or_delay_other_upstreams(
    tmp_path: Path, scenario: upstreams.Scenario
) -> None:
    assert_all_hold(await scenario(tmp_path, f"sqlite:///{tmp_path / 'data'}", True))
