"""The session of a request: opened by its method, committed before the answer goes out."""

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
    """The database of the module that is asked."""
    return request_context(connection).require_module().database


def open_session(connection: HTTPConnection) -> AbstractAsyncContextManager[AsyncSession]:
    """Open what `get_db` yields: a read session for safe methods and WebSockets, otherwise a transaction."""
    database = database_of(connection)
    # A WebSocket has no method, and may stay open for hours: a transaction would keep its connection all the while.
    is_read = connection.scope.get("method") in _SAFE_METHODS or connection.scope["type"] == "websocket"
    return database.read() if is_read else database.transaction()


async def get_db(connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
    """A read session for GET, HEAD and WebSockets, else a transaction.

    Handlers never commit: the transaction ends when the handler has returned and before the answer goes out, so that
    a COMMIT that fails is never a success for the caller. Use it as `Session`; in tests, override it.
    """
    async with open_session(connection) as session:
        yield session


# With FastAPI's default scope the code behind `yield`, and with it the COMMIT, would run after the answer was sent.
Session = Annotated[AsyncSession, Depends(get_db, scope="function")]

Made = TypeVar("Made")


def with_session(make: Callable[[AsyncSession], Made]) -> Made:
    """A dependency on what is made from the request's session: `with_session(EventRepository)`.

    `Depends(EventRepository)` would do the same in a thread, for every request: FastAPI takes a class to block.
    """

    async def made(session: Session) -> Made:
        return make(session)

    dependency: Any = Depends(made)
    return cast(Made, dependency)
