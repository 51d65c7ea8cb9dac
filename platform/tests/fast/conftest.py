"""Pools with the bounded pool and the driver's sessions, with which the tests of kernel.database also run."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from kernel.database import AsyncDBPool
from kernel.database.runner import Rows
from kernel.ext.fast import extension as fast
from kernel.ext.fast.driver import DriverExecutor, Statement
from kernel.ext.pool import install as bounded
from kernel.ext.pool.settings import PoolSettings
from tests.core.conftest import own_logging

__all__ = ["own_logging"]


@pytest.fixture
def extend() -> Callable[..., AsyncDBPool]:
    """Plug the bounded pool and the driver's sessions into a pool."""
    return plug


def plug_with_roles(pool: AsyncDBPool, role_prefix: str | None = None, **options: Any) -> AsyncDBPool:
    """Plug roles, the bounded pool and the driver's sessions into a pool."""
    importlib.import_module("kernel.ext.roles.extension").install(pool, role_prefix)
    return plug(pool, **options)


def plug(pool: AsyncDBPool, **options: Any) -> AsyncDBPool:
    bounded.install(pool, PoolSettings(**options))
    fast.install(pool)
    return pool


@pytest.fixture
def seen_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Record the text of every statement of a session, run on the driver or through SQLAlchemy."""
    seen: list[str] = []
    run = DriverExecutor.run

    async def noted(self: DriverExecutor, connection: Any, shape: Statement, arguments: list[Any]) -> Rows:
        seen.append(shape.text)
        return await run(self, connection, shape, arguments)

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    monkeypatch.setattr(DriverExecutor, "run", noted)
    event.listen(Engine, "before_cursor_execute", note)
    yield seen
    event.remove(Engine, "before_cursor_execute", note)
