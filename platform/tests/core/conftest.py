"""What tests of the kernel share."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from sqlalchemy import event
from sqlalchemy.engine import Engine

from kernel.database import AsyncDBPool


@pytest.fixture
def own_logging() -> Iterator[None]:
    """The test may configure logging: afterwards it is as it was."""
    before: dict[str, Any] = structlog.get_config()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)


@pytest.fixture
def extend() -> Callable[..., AsyncDBPool]:
    """Plugs extensions into a pool: none. platform/tests/fast runs the tests of kernel.database with its own."""
    return lambda pool: pool


@pytest.fixture
def seen_by_the_driver() -> Iterator[list[str]]:
    """The text of every statement of a session."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    yield seen
    event.remove(Engine, "before_cursor_execute", note)
