"""Sessions that run statements on the driver until the ORM is needed, and that hold nothing after their end."""

from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar
from weakref import ReferenceType, ref

from sqlalchemy import Executable, Select, event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncResult, AsyncSession
from sqlalchemy.orm import Session, SessionTransaction, UOWTransaction
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.util import greenlet_spawn

from kernel.database.errors import (
    ConcurrentUse,
    DatabaseUnavailable,
    ReadOnlySession,
    SessionClosed,
    StalePlan,
    TransactionAborted,
)
from kernel.database.lease import Lease, SessionEngine
from kernel.database.writes import failure_on, written_on
from kernel.ext.fast.driver import Direct, Rows, Statement, Values
from kernel.ext.pool.bounded_pool import BoundedPool
from kernel.ext.pool.quota import TenantEngine

# What AsyncSession's constructor sets; whatever needs the ORM goes through one of these.
_MADE_LATE = frozenset({"sync_session", "_proxied", "_async_bind", "_async_binds"})

_CONNECTION = "kernel.connection"

Result = TypeVar("Result")
Runnable = Select[Any] | UpdateBase
Action = Callable[[], Awaitable[None]]


class LazySession(AsyncSession):
    """An AsyncSession that becomes one when it is used as one.

    After its end every use raises SessionClosed, and no connection is left with it.
    """

    # The session inside which this one was opened, by the same task or the task that started it.
    outer: "ReferenceType[LazySession] | None" = None

    def __init__(self, engine: AsyncEngine, direct: Direct | None) -> None:
        self._engine = engine
        self._tenant = engine.sync_engine.tenant if isinstance(engine.sync_engine, TenantEngine) else None
        self._direct = direct
        self._lease = Lease()
        self.before_commit: list[Action] = []
        self.after_commit: list[Action] = []
        # What extensions keep for the database of the module, by its type.
        self.values: Mapping[type, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name not in _MADE_LATE:
            raise AttributeError(name)
        self._lease.check()
        self._become()
        return self.__dict__[name]

    @property
    def is_over(self) -> bool:
        """Return True after the end of the session."""
        return self._lease.is_over

    @property
    def uses_orm(self) -> bool:
        """Return True if the ORM is in use, which may hold changes that it has not flushed."""
        return "sync_session" in self.__dict__

    @property
    def runs_directly(self) -> bool:
        """Return True if statements may run on the driver."""
        return self._direct is not None and not self.uses_orm

    def get_bind(self, *args: Any, **options: Any) -> Engine | Connection:
        """Return what SQLAlchemy's session returns; without arguments this does not start the ORM."""
        return super().get_bind(*args, **options) if self.uses_orm or args or options else self._engine.sync_engine

    async def fetch(
        self, statement: ClauseElement, params: Mapping[str, Any] | None = None, values: Values | None = None
    ) -> Rows | None:
        """Return the rows of a statement, run on the driver; None if it must go through SQLAlchemy.

        See Direct.prepare. Raises SessionClosed, and TransactionAborted after a failed statement.
        """
        if self._direct is None or self.uses_orm:
            return None
        self._lease.check()
        prepared = self._direct.prepare(statement, params, values)
        return None if prepared is None else await self._run(self._direct, *prepared)

    async def rows(self, statement: Runnable, params: Mapping[str, Any] | None = None) -> Rows:
        """Return the rows of a statement, run on the driver where that is possible."""
        found = await self.fetch(statement, params)
        return list((await self.execute(statement, params)).all()) if found is None else found

    def pending_writes(self) -> str | None:
        """Return what the session has written, locked or is about to write, in a few words; None after reads only."""
        raise NotImplementedError

    async def release_connection(self) -> None:
        """Give the connection back; the next statement takes one anew. For a session that has only read."""
        raise NotImplementedError

    async def release(self) -> None:
        """End the session. What is not committed is rolled back, and a connection that is still busy is closed."""
        raise NotImplementedError

    def _become(self) -> None:
        raise NotImplementedError

    async def _run(self, direct: Direct, shape: Statement, arguments: list[Any]) -> Rows:
        raise NotImplementedError

    def _bind(self, engine: AsyncEngine) -> AsyncEngine:
        """Return the engine with connections that end with this session."""
        return AsyncEngine(SessionEngine(engine.sync_engine, self._lease))

    def _pool(self) -> BoundedPool:
        pool = self._engine.sync_engine.pool
        assert isinstance(pool, BoundedPool)  # noqa: S101  # for the type checker: others have no Direct
        return pool


_innermost: ContextVar[ReferenceType[LazySession] | None] = ContextVar("innermost_session", default=None)


def enter(session: LazySession) -> None:
    """Make this session the innermost one.

    The context refers to it weakly: tasks, transports and callbacks copy the context and may outlive the session.
    """
    session.outer = _innermost.get()
    _innermost.set(ref(session))


def leave(session: LazySession) -> None:
    """Undo `enter`."""
    _innermost.set(session.outer)


def open_sessions() -> Iterator[LazySession]:
    """Yield the sessions inside which the caller runs, the innermost first.

    A new task begins inside the sessions of the task that started it.
    """
    reference = _innermost.get()
    while reference is not None and (session := reference()) is not None:
        if not session.is_over:
            yield session
        reference = session.outer


class _Core(Session):
    """The synchronous core of a write session; notes the connection of its transaction."""


@event.listens_for(_Core, "after_begin")
def _keep_connection(session: Session, _transaction: SessionTransaction, connection: Connection) -> None:
    session.info[_CONNECTION] = connection


class _ReadOnly(Session):
    """A synchronous core that refuses to flush."""


@event.listens_for(_ReadOnly, "before_flush")
def _refuse_to_write(session: Session, _context: UOWTransaction, _instances: Any) -> None:
    if session.new or session.dirty or session.deleted:
        raise ReadOnlySession


class _Statements(_ReadOnly):
    """The synchronous core of a read session: the connection goes back after each statement.

    The drivers have read all rows when `execute` returns; results that are read row by row go through another core.
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


class ReadSession(LazySession):
    """Each statement sees what is committed when it runs, and keeps its connection no longer than it takes."""

    def __init__(self, engine: AsyncEngine, direct: Direct | None, streaming: AsyncEngine | None = None) -> None:
        """Use `streaming` for results that are read row by row (default: `engine`)."""
        super().__init__(engine, direct)
        self._streaming = streaming or engine
        self._streams: list[AsyncSession] = []

    async def stream(self, statement: Executable, *args: Any, **options: Any) -> AsyncResult[Any]:
        """Read the rows of a statement as they arrive, in a transaction of its own.

        This is the one read that holds a connection: until the session ends. Open a session for it with
        `async with database.read() as session` where the rows go into a streamed response.
        """
        self._lease.check()
        session = AsyncSession(self._bind(self._streaming), sync_session_class=_ReadOnly, expire_on_commit=False)
        self._streams.append(session)
        return await session.stream(statement, *args, **options)

    def _become(self) -> None:
        bind = self._bind(self._engine)
        AsyncSession.__init__(
            self, bind, sync_session_class=_Statements, expire_on_commit=False, close_resets_only=False
        )

    async def _run(self, direct: Direct, shape: Statement, arguments: list[Any]) -> Rows:
        pool = self._pool()
        entry, rows = await pool.attempt(partial(direct.run, shape=shape, arguments=arguments), self._tenant)
        pool.give_back(entry)
        return rows

    def pending_writes(self) -> str | None:
        return None

    async def release_connection(self) -> None:
        if self.uses_orm:
            await self.commit()

    async def release(self) -> None:
        self._lease.is_over = True
        try:
            for session in (*self._streams, self) if self.uses_orm else self._streams:
                with suppress(Exception):  # of a connection that is lost or busy, which `end` closes
                    await session.close()
        finally:
            self._lease.end()


class WriteSession(LazySession):
    """One transaction, begun by its first statement."""

    # The connection on which statements have begun the transaction, and the same in SQLAlchemy's hands.
    _entry: ConnectionPoolEntry | None = None
    _joined: Connection | None = None
    # Why no further statement of the transaction can succeed.
    _failure: BaseException | None = None
    _is_busy = False
    # What statements on the driver have written, in a few words.
    _wrote: str | None = None

    def pending_writes(self) -> str | None:
        if self._failure is not None:
            return None  # nothing of it can be committed
        if not self.uses_orm:
            return self._wrote
        core = self.sync_session
        if unflushed := [*core.new, *core.deleted, *(one for one in core.dirty if core.is_modified(one))]:
            return f"unflushed {type(unflushed[0]).__name__}"
        connection = self._connection
        return self._wrote or (None if connection is None else written_on(connection))

    async def release_connection(self) -> None:
        if self._failure is not None or self._is_busy:
            return  # the transaction has failed, or another task is using it
        await self.finish()
        if self._joined is not None:
            self._joined = None
            self.bind = self._bind(self._engine)
            self.sync_session.bind = self.bind.sync_engine

    @property
    def _connection(self) -> Connection | None:
        """The connection of the ORM's transaction."""
        connection: Connection | None = self.sync_session.info.get(_CONNECTION)
        return None if connection is None or connection.closed or connection.invalidated else connection

    def _become(self) -> None:
        self._check()
        bind: AsyncEngine | AsyncConnection = self._bind(self._engine)
        if self._entry is not None:
            connection = self._lease.add(self._pool().proxied(self._entry))
            self._entry = None
            self._joined = Connection(self._engine.sync_engine, connection)
            self._joined.begin()
            bind = AsyncConnection(self._engine, self._joined)
        # A session that joins a transaction that statements have begun is to end it, too.
        AsyncSession.__init__(
            self,
            bind,
            sync_session_class=_Core,
            expire_on_commit=False,
            close_resets_only=False,
            join_transaction_mode="control_fully",
        )
        self.sync_session.begin()
        if self._joined is not None:
            # Now, not at its first statement: without one, its commit would leave out what was written before.
            self.sync_session.connection()

    async def _run(self, direct: Direct, shape: Statement, arguments: list[Any]) -> Rows:
        if self._is_busy:
            raise ConcurrentUse
        self._check()
        self._is_busy = True
        try:
            if self._entry is None:
                return await self._begin_with(direct, shape, arguments)
            self._wrote = self._wrote or shape.writes
            return await self._on(self._entry, direct.run(self._entry, shape, arguments))
        finally:
            self._is_busy = False

    async def _begin_with(self, direct: Direct, shape: Statement, arguments: list[Any]) -> Rows:
        """Run the first statement of the transaction, and again if its plan was made for an earlier table."""
        entry, _ = await self._pool().attempt(direct.begin, self._tenant)
        if self.is_over:  # the session was released meanwhile
            self._pool().drop(entry)
            raise SessionClosed
        self._entry, self._wrote = entry, shape.writes
        try:
            return await self._on(entry, direct.run(entry, shape, arguments))
        except StalePlan:
            if self._entry is not entry:
                raise
        self._failure = None
        await self._on(entry, direct.end(entry, commit=False))
        await self._on(entry, direct.begin(entry))
        return await self._on(entry, direct.run(entry, shape, arguments))

    async def finish(self) -> None:
        """Commit. Raises TransactionAborted after a statement that failed, and DatabaseUnavailable after an outage."""
        self._check()
        if self.uses_orm:
            if (connection := self._connection) is not None and (failure := failure_on(connection)) is not None:
                raise TransactionAborted(failure) from failure
            await self.commit()
            if self._joined is not None:
                await greenlet_spawn(self._joined.close)
        elif self._direct is not None and self._entry is not None:
            await self._on(self._entry, self._direct.end(self._entry, commit=True))
            self._give_back()

    async def release(self) -> None:
        self._lease.is_over = True
        try:
            with suppress(Exception):  # of a connection that is lost or busy: the server rolls back
                if self.uses_orm:
                    await self.close()
                    if self._joined is not None:
                        await greenlet_spawn(self._joined.close)
                elif self._direct is not None and self._entry is not None and not self._is_busy:
                    await self._on(self._entry, self._direct.end(self._entry, commit=False))
                    self._give_back()
        finally:
            self._lease.end()
            if self._entry is not None:
                entry, self._entry = self._entry, None
                self._pool().drop(entry)

    async def _on(self, entry: ConnectionPoolEntry, work: Coroutine[Any, Any, Result]) -> Result:
        """Do something on the connection. Close it if it failed or the caller was cancelled before the answer."""
        try:
            return await work
        except BaseException as error:
            self._failure = self._failure or error
            is_useless = isinstance(error, DatabaseUnavailable) or not isinstance(error, Exception)
            if is_useless and not isinstance(error, StalePlan) and self._entry is entry:
                self._entry = None
                self._pool().drop(entry, error)
            raise

    def _give_back(self) -> None:
        if self._entry is not None:
            self._pool().give_back(self._entry)
            self._entry = None

    def _check(self) -> None:
        """Raise if no statement of this transaction can succeed any more."""
        self._lease.check()
        if isinstance(self._failure, DatabaseUnavailable):
            raise DatabaseUnavailable("the transaction was lost, and with it what it had written") from self._failure
        if self._failure is not None:
            raise TransactionAborted(self._failure) from self._failure
