"""The databases of two processes. The tests of messages are skipped if the extension messaging is not installed."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

collect_ignore_glob = [] if find_spec("kernel.ext.messaging") else ["test_messages_*.py"]


@pytest.fixture(params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Return the URL of a database for the shop, and of one for the mail."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'here'}", f"sqlite:///{tmp_path / 'there'}"
    make: Callable[[str], URL] = request.getfixturevalue("new_database")
    here, there = (make(name).render_as_string(hide_password=False) for name in ("here", "there"))
    return here, there
