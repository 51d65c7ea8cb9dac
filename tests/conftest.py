"""What these tests need beyond the kernel's own fixtures (kernel.testing, docs/testing.md)."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

pytest_plugins = ["kernel.testing", "tests.alone"]


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """Settings of the modules: nothing is kept where another test could see it."""
    return {"IMAGES_STORAGE_URL": f"file://{tmp_path / 'images'}", "HEALTH_CACHE_SECONDS": "0"}


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without any tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'data'}"
    make: Callable[[str], URL] = request.getfixturevalue("new_database")
    return make("empty").render_as_string(hide_password=False)
