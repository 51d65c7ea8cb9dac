"""Fixtures of these tests in addition to those of the kernel (kernel.testing, docs/testing.md)."""

from pathlib import Path

import pytest


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """Return settings of the modules with which tests do not share stored files."""
    return {"IMAGES_STORAGE_URL": f"file://{tmp_path / 'images'}", "HEALTH_CACHE_SECONDS": "0"}
