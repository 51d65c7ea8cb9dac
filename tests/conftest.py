"""What these tests need beyond the kernel's own fixtures (kernel.testing, docs/testing.md)."""

from pathlib import Path

import pytest


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """Settings of the modules: nothing is kept where another test could see it."""
    return {"IMAGES_STORAGE_URL": f"file://{tmp_path / 'images'}", "HEALTH_CACHE_SECONDS": "0"}
