"""The sessions of a module: SQLAlchemy's own, with an end after which they hold no connection."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TypeVar
from weakref import ReferenceType, ref

from sqlalchemy import Executable, Select, event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncResult, AsyncSession
from sqlalchemy.orm import Session, SessionTransaction, UOWTransaction
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.sql.dml import UpdateBase

from kernel.database.errors import ConcurrentUse, ReadOnlySession, SessionClosed, TransactionAborted
from kernel.database.runner import Rows, StatementRunner
from kernel.database.writes import FAILED, WRITTEN

_CONNECTION = "kernel.connection"

Result = TypeVar("Result")
Runnable = Select[Any] | UpdateBase
Action = Callable[[], Awaitable[None]]


class Lease:
    """The pool connections that a session has out.

    A task that outlives the session gets SessionClosed instead of a connection, and `end` closes each connection that
    was not given back, also one that is busy.
    """

    def __init__(self) -> None:
        self.is_over = False
        self._out: list[PoolProxiedConnection] = []

    def check(self) -> None:
        """Raise SessionClosed after the end."""
        if self.is_over:
            raise SessionClosed

    def add(self, connection: PoolProxiedConnection) -> PoolProxiedConnection:
        """Note that the session has this connection. Raises SessionClosed, and gives it back, after the end."""
        if self.is_over:
            connection.close()
            raise SessionClosed
        self._out = [one for one in self._out if one.is_valid]
        self._out.append(connection)
        return connection

    def end(self) -> None:
        """Refuse further connections, and close those that are still out. Waits for nothing."""
        self.is_over = True
        out, self._out = self._out, []
        for connection in out:
            if connection.is_valid:
                connection.invalidate()


class SessionEngine(OptionEngine):
    """An engine whose connections belong to one session."""

    def __init__(self, engine: Engine, lease: Lease, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(engine, options or {})
        self._engine = engine
        self._lease = lease

    def execution_options(self, **options: Any) -> "SessionEngine":
        return SessionEngine(self, self._lease, options)

    def raw_connection(self) -> PoolProxiedConnection:
        self._lease.check()
        return self._lease.add(self._engine.raw_connection())


class DatabaseSession(AsyncSession):
    """An AsyncSession of one module. After its end every use raises SessionClosed, and no connection is left with it.

    An extension may open sessions of a derived class (see Database in kernel.database.pool).
    """

    # The session inside which this one was opened, by the same task or the task that started it.
    outer: "ReferenceType[DatabaseSession] | None" = None
    # The synchronous session that does the work.
    core_class: type[Session]

    def __init__(self, engine: AsyncEngine) -> None:
        self.set_up(engine)
        self.start_orm()

    def set_up(self, engine: AsyncEngine) -> None:
        """Set what a session has beside SQLAlchemy's."""
        self.engine = engine
        self.lease = Lease()
        # Of results that are read row by row.
        self.streams: list[AsyncSession] = []
        self.before_commit: list[Action] = []
        self.after_commit: list[Action] = []
        # Objects that extensions keep for the database of the module, by type.
        self.values: Mapping[type, Any] = {}

    def start_orm(self) -> None:
        """Start SQLAlchemy's session."""
        AsyncSession.__init__(
            self, self.leased(self.engine), sync_session_class=self.core_class, expire_on_commit=False
        )

    def leased(self, engine: AsyncEngine) -> AsyncEngine:
        """Return the engine with connections that end with this session."""
        return AsyncEngine(SessionEngine(engine.sync_engine, self.lease))

    @property
    def is_over(self) -> bool:
        """Return True after the end of the session."""
        return self.lease.is_over

    @property
    def runner(self) -> StatementRunner | None:
        """Return what runs statements of repositories in place of SQLAlchemy's session, if anything does."""
        return None

    async def rows(self, statement: Runnable, params: Mapping[str, Any] | None = None) -> Rows:
        """Return the rows of a statement, by the runner if there is one."""
        if (runner := self.runner) is not None and (found := await runner.fetch(statement, params)) is not None:
            return found
        return list((await self.execute(statement, params)).all())

    def pending_writes(self) -> str | None:
        """Return what the session has written, locked or is about to write, in a few words; None after reads only."""
        return None

    async def release_connection(self) -> None:
        """Give the connection back; the next statement takes one anew. For a session that has only read."""
        await self.commit()

    async def release(self) -> None:
        """End the session. What is not committed is rolled back, and a connection that is still busy is closed."""
        self.lease.is_over = True
        try:
            for session in (*self.streams, self):
                with suppress(Exception):  # of a connection that is lost or busy: the lease closes it
                    await session.close()
        finally:
            self.lease.end()


_innermost: ContextVar[ReferenceType[DatabaseSession] | None] = ContextVar("innermost_session", default=None)


def enter(session: DatabaseSession) -> None:
    """Make this session the innermost one.

    The context refers to it weakly: tasks, transports and callbacks copy the context and may outlive the session.
    """
    session.outer = _innermost.get()
    _innermost.set(ref(session))


def leave(session: DatabaseSession) -> None:
    """Undo `enter`."""
    _innermost.set(session.outer)


def open_sessions() -> Iterator[DatabaseSession]:
    """Yield the sessions inside which the caller runs, the innermost first.

    A new task begins inside the sessions of the task that started it.
    """
    reference = _innermost.get()
    while reference is not None and (session := reference()) is not None:
        if not session.is_over:
            yield session
        reference = session.outer


class _ReadOnly(Session):
    """A synchronous session that refuses to flush."""


@event.listens_for(_ReadOnly, "before_flush")
def _refuse_to_write(session: Session, _context: UOWTransaction, _instances: Any) -> None:
    if session.new or session.dirty or session.deleted:
        raise ReadOnlySession


class _Statements(_ReadOnly):
    """The synchronous part of a read session: the connection goes back after each statement.

    The drivers have read all rows when `execute` returns. Results that are read row by row go through another session.
    """

    def execute(self, *args: Any, **options: Any) -> Any:
        return self._alone(super().execute, *args, **options)

    def scalar(self, *args: Any, **options: Any) -> Any:
        return self._alone(super().scalar, *args, **options)

    def scalars(self, *args: Any, **options: Any) -> Any:
        return self._alone(super().scalars, *args, **options)

    def _alone(self, work: Callable[..., Result], *args: Any, **options: Any) -> Result:
        try:
            result = work(*args, **options)
        except (ConcurrentUse, InvalidRequestError):  # the connection is still the other task's
            raise
        except BaseException:
            self.rollback()
            raise
        self.commit()
        return result


class ReadSession(DatabaseSession):
    """Each statement sees what is committed when it runs, and keeps its connection no longer than it takes."""

    core_class = _Statements

    def __init__(self, engine: AsyncEngine, streaming: AsyncEngine | None = None) -> None:
        """Use `streaming` for results that are read row by row (default: `engine`)."""
        super().__init__(engine)
        self.streaming = streaming or engine

    async def stream(self, statement: Executable, *args: Any, **options: Any) -> AsyncResult[Any]:
        """Read the rows of a statement as they arrive, in a transaction of its own.

        This is the one read that holds a connection: until the session ends. Open a session for it with
        `async with database.read() as session` where the rows go into a streamed response.
        """
        self.lease.check()
        session = AsyncSession(self.leased(self.streaming), sync_session_class=_ReadOnly, expire_on_commit=False)
        self.streams.append(session)
        return await session.stream(statement, *args, **options)


class _Core(Session):
    """The synchronous part of a write session; notes the connection of its transaction."""


@event.listens_for(_Core, "after_begin")
def _keep_connection(session: Session, _transaction: SessionTransaction, connection: Connection) -> None:
    session.info[_CONNECTION] = connection


class WriteSession(DatabaseSession):
    """One transaction, begun by its first statement."""

    core_class = _Core

    def pending_writes(self) -> str | None:
        core = self.sync_session
        if unflushed := [*core.new, *core.deleted, *(one for one in core.dirty if core.is_modified(one))]:
            return f"unflushed {type(unflushed[0]).__name__}"
        written: str | None = self._noted(WRITTEN)
        return written

    async def release_connection(self) -> None:
        await self.finish()

    async def finish(self) -> None:
        """Commit. Raises SessionClosed, and TransactionAborted after a statement that failed."""
        self.lease.check()
        if (failure := self._noted(FAILED)) is not None:
            raise TransactionAborted(failure) from failure
        await self.commit()

    def _noted(self, key: str) -> Any:
        """Return what was noted of the transaction, see kernel.database.writes."""
        connection: Connection | None = self.sync_session.info.get(_CONNECTION)
        return None if connection is None or connection.closed or connection.invalidated else connection.info.get(key)
