"""The session of a request: its kind depends on the method, and it commits before the response is sent."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from kernel.database import Database
from kernel.web.context import request_context

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def database_of(connection: HTTPConnection) -> Database:
    """Return the database of the module that serves this request."""
    return request_context(connection).require_module().database


def open_session(connection: HTTPConnection) -> AbstractAsyncContextManager[AsyncSession]:
    """Open the session of a request: a read session for safe methods and WebSockets, otherwise a transaction."""
    database = database_of(connection)
    # A WebSocket may stay open for hours, and a transaction would hold its connection all that time.
    is_read = connection.scope.get("method") in _SAFE_METHODS or connection.scope["type"] == "websocket"
    return database.read() if is_read else database.transaction()


async def get_db(connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
    """Yield a read session for GET, HEAD, OPTIONS and WebSockets, otherwise a transaction.

    Handlers never commit. The transaction commits after the handler has returned and before the response is sent, so
    that a failed COMMIT is never reported as a success. Use it as `Session`; override it in tests.
    """
    async with open_session(connection) as session:
        yield session


# With FastAPI's default scope, the code after `yield`, and with it the COMMIT, would run after the response was sent.
Session = Annotated[AsyncSession, Depends(get_db, scope="function")]

Made = TypeVar("Made")


def with_session(make: Callable[[AsyncSession], Made]) -> Made:
    """Return a dependency that calls `make` with the request's session: `with_session(EventRepository)`.

    `Depends(EventRepository)` would do the same in a thread, because FastAPI assumes that a class may block.
    """

    async def made(session: Session) -> Made:
        return make(session)

    dependency: Any = Depends(made)
    return cast(Made, dependency)
