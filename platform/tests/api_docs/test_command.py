"""`kernel serve` names the page and serves it."""

import signal
from pathlib import Path

import httpx2
import pytest

from tests.core.test_command import serving

pytestmark = pytest.mark.integration


def test_the_server_prints_the_address_of_the_page_and_serves_it(root: Path, tmp_path: Path) -> None:
    with serving(root, tmp_path, "--no-reload") as (base, process):
        assert httpx2.get(f"{base}/docs", trust_env=False).status_code == 200
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
    assert f"{base}/docs" in output
