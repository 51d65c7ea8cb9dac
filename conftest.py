"""The plugins and fixtures of all tests: the platform's, the modules', and those of the assembled application."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

pytest_plugins = ["kernel.testing", "tests.alone", "tests.tiers", "tests.core.databases", "tests.core.upstreams"]


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without any tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'data'}"
    make: Callable[[str], URL] = request.getfixturevalue("new_database")
    return make("empty").render_as_string(hide_password=False)
