"""`kernel serve` with several workers."""

from pathlib import Path

import httpx2
import pytest

from tests.core.test_command import serving


@pytest.mark.slow
def test_two_workers_serve_one_address(root: Path, tmp_path: Path) -> None:
    server = serving(root, tmp_path, "--workers", "2", "--no-reload")
    with server as (base, _), httpx2.Client(trust_env=False) as client:
        assert {client.get(f"{base}/health/live").status_code for _ in range(20)} == {200}
