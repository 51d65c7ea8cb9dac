"""The scenarios of full disks, a few times each."""

import os
from pathlib import Path

import pytest

from tests.faults import disks
from tests.faults.harness import assert_all_hold

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")]


async def test_an_upload_to_a_full_disk_leaves_nothing_behind(tmp_path: Path, empty_url: str) -> None:
    assert_all_hold(await disks.full_while_uploading(tmp_path, empty_url, True))


@pytest.mark.parametrize("scenario", disks.ONCE, ids=lambda one: one.__name__)
async def test_a_full_disk_is_reported_and_logged(tmp_path: Path, scenario: disks.Scenario) -> None:
    assert_all_hold(await scenario(tmp_path, f"sqlite:///{tmp_path / 'data'}", True))
