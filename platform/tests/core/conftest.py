"""Fixtures of the tests of the kernel."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from kernel.database import AsyncDBPool
from tests.core.commands import logging_kept


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Let the test configure logging."""
    with logging_kept():
        yield


@pytest.fixture
def extend() -> Callable[..., AsyncDBPool]:
    """Plug extensions into a pool: none. platform/tests/fast runs the tests of kernel.database with its own."""
    return lambda pool: pool


@pytest.fixture
def seen_by_the_driver() -> Iterator[list[str]]:
    """Record the text of every statement of a session."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    yield seen
    event.remove(Engine, "before_cursor_execute", note)
