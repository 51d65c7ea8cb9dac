"""The scenarios of failing commits, a few times each."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from tests.faults import commits
from tests.faults.harness import assert_all_hold

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("scenario", commits.ON_BOTH, ids=lambda one: one.__name__)
async def test_every_response_agrees_with_the_stored_rows(
    tmp_path: Path, empty_url: str, scenario: commits.Scenario
) -> None:
    assert_all_hold(await scenario(tmp_path, empty_url, True))


@pytest.mark.parametrize("scenario", commits.ON_POSTGRESQL, ids=lambda one: one.__name__)
async def test_a_failed_commit_is_never_a_success(
    tmp_path: Path, new_database: Callable[[str], URL], scenario: commits.Scenario
) -> None:
    assert_all_hold(await scenario(tmp_path, new_database("commits").render_as_string(hide_password=False), True))
