"""The scenarios of upstreams that fail, for a short while each."""

from pathlib import Path

import pytest

from tests.faults import upstreams
from tests.faults.harness import assert_all_hold

pytestmark = pytest.mark.slow

# That others do not notice can be seen only where nobody else is there to be noticed.
_SCENARIOS = [
    pytest.param(one, id=one.__name__, marks=[pytest.mark.alone] if one is upstreams.others_go_on else [])
    for one in upstreams.ONCE
]


@pytest.mark.parametrize("scenario", _SCENARIOS)
async def test_a_call_is_bounded_and_spares_the_upstream_and_others(
    tmp_path: Path, scenario: upstreams.Scenario
) -> None:
    assert_all_hold(await scenario(tmp_path, f"sqlite:///{tmp_path / 'data'}", True))
