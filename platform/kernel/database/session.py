"""Sessions that cost nothing until the ORM is asked: until then, their statements run on the driver."""

from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Select, event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, SessionTransaction, UOWTransaction
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.util import greenlet_spawn

from kernel.database.bounded_pool import BoundedPool
from kernel.database.direct import Direct, Rows, Statement, Values
from kernel.database.errors import DatabaseUnavailable, ReadOnlySession
from kernel.database.tenants import TenantEngine
from kernel.database.writes import written_on

# What AsyncSession's constructor sets; whatever needs the ORM goes through one of these.
_MADE_LATE = frozenset({"sync_session", "_proxied", "_async_bind", "_async_binds"})

_CONNECTION = "kernel.connection"

Result = TypeVar("Result")
Runnable = Select[Any] | UpdateBase
Action = Callable[[], Awaitable[None]]


class LazySession(AsyncSession):
    """An AsyncSession that becomes one when it is used as one."""

    # That inside which this one was opened, by the same task or the one that started it.
    outer: "LazySession | None" = None
    is_over = False

    def __init__(self, engine: AsyncEngine, direct: Direct | None) -> None:
        self._engine = engine
        self._tenant = engine.sync_engine.tenant if isinstance(engine.sync_engine, TenantEngine) else None
        self._direct = direct
        self.before_commit: list[Action] = []
        self.after_commit: list[Action] = []
        # The module's (kernel.messaging), where what it publishes in this session goes.
        self.outbox: object = None

    def __getattr__(self, name: str) -> Any:
        if name not in _MADE_LATE:
            raise AttributeError(name)
        self._become()
        return self.__dict__[name]

    @property
    def uses_orm(self) -> bool:
        """Whether it has been used as a session, which may hold changes that only it knows of."""
        return "sync_session" in self.__dict__

    @property
    def runs_directly(self) -> bool:
        """Whether statements may run on the driver: it can, and nobody has used the session as one."""
        return self._direct is not None and not self.uses_orm

    def get_bind(self, *args: Any, **options: Any) -> Engine | Connection:
        """SQLAlchemy's; the plain question after the database does not wake the ORM."""
        return super().get_bind(*args, **options) if self.uses_orm or args or options else self._engine.sync_engine

    async def fetch(
        self, statement: ClauseElement, params: Mapping[str, Any] | None = None, values: Values | None = None
    ) -> Rows | None:
        """The rows of a statement, run on the driver; None if it must go through SQLAlchemy. See Direct.prepare."""
        if self._direct is None or self.uses_orm:
            return None
        prepared = self._direct.prepare(statement, params, values)
        return None if prepared is None else await self._run(self._direct, *prepared)

    async def rows(self, statement: Runnable, params: Mapping[str, Any] | None = None) -> Rows:
        """The rows of a statement, run on the driver where that is possible."""
        found = await self.fetch(statement, params)
        return list((await self.execute(statement, params)).all()) if found is None else found

    def what_it_wrote(self) -> str | None:
        """What it has written, locked or is about to write, in a few words; None if it has only read."""
        raise NotImplementedError

    async def step_aside(self) -> None:
        """Give the connection back; the next statement takes one anew. For a session that has only read."""
        raise NotImplementedError

    def _become(self) -> None:
        raise NotImplementedError

    async def _run(self, direct: Direct, shape: Statement, arguments: list[Any]) -> Rows:
        raise NotImplementedError

    def _pool(self) -> BoundedPool:
        pool = self._engine.sync_engine.pool
        assert isinstance(pool, BoundedPool)  # noqa: S101  # for the type checker: others have no Direct
        return pool


_innermost: ContextVar[LazySession | None] = ContextVar("innermost_session", default=None)


def enter(session: LazySession) -> None:
    """From here on, `open_sessions` begins with this one."""
    session.outer = _innermost.get()
    _innermost.set(session)


def leave(session: LazySession) -> None:
    """The opposite of `enter`."""
    session.is_over = True
    _innermost.set(session.outer)


def open_sessions() -> Iterator[LazySession]:
    """The sessions inside which the caller runs, the innermost first. A task begins inside those of its starter."""
    session = _innermost.get()
    while session is not None:
        if not session.is_over:
            yield session
        session = session.outer


class _Core(Session):
    """The synchronous core of a session, which tells on which connection its transaction is."""


@event.listens_for(_Core, "after_begin")
def _keep_connection(session: Session, _transaction: SessionTransaction, connection: Connection) -> None:
    session.info[_CONNECTION] = connection


class _ReadOnly(Session):
    """The synchronous core of a read session."""


@event.listens_for(_ReadOnly, "before_flush")
def _refuse_to_write(session: Session, _context: UOWTransaction, _instances: Any) -> None:
    if session.new or session.dirty or session.deleted:
        raise ReadOnlySession


class ReadSession(LazySession):
    """Each statement sees what is committed when it runs, and keeps its connection no longer than it takes."""

    def _become(self) -> None:
        AsyncSession.__init__(self, self._engine, sync_session_class=_ReadOnly, expire_on_commit=False)

    async def _run(self, direct: Direct, shape: Statement, arguments: list[Any]) -> Rows:
        pool = self._pool()
        entry, rows = await pool.attempt(partial(direct.run, shape=shape, arguments=arguments), self._tenant)
        pool.give_back(entry)
        return rows

    def what_it_wrote(self) -> str | None:
        return None

    async def step_aside(self) -> None:
        if self.uses_orm:
            await self.commit()

    async def release(self) -> None:
        """Give everything back."""
        if self.uses_orm:
            await self.close()


class WriteSession(LazySession):
    """One transaction, begun by its first statement."""

    # The connection on which statements have begun the transaction, and the same in SQLAlchemy's hands.
    _entry: ConnectionPoolEntry | None = None
    _joined: Connection | None = None
    # Why the transaction is over before its end: whoever goes on nevertheless must not begin another.
    _lost: BaseException | None = None
    _is_busy = False
    # What statements on the driver have written, in a few words.
    _wrote: str | None = None

    def what_it_wrote(self) -> str | None:
        if not self.uses_orm:
            return self._wrote
        core = self.sync_session
        if unflushed := [*core.new, *core.deleted, *(one for one in core.dirty if core.is_modified(one))]:
            return f"unflushed {type(unflushed[0]).__name__}"
        connection = core.info.get(_CONNECTION)
        return self._wrote or (None if connection is None or connection.closed else written_on(connection))

    async def step_aside(self) -> None:
        if self._lost is not None or self._is_busy:
            return  # the one is over, and the other is at work in another task
        await self.finish()
        if self._joined is not None:
            await greenlet_spawn(self._joined.close)
            self._joined = self._entry = None
            self.bind, self.sync_session.bind = self._engine, self._engine.sync_engine

    def _become(self) -> None:
        self._must_not_be_lost()
        bind: AsyncEngine | AsyncConnection = self._engine
        if self._entry is not None:
            self._joined = Connection(self._engine.sync_engine, self._pool().proxied(self._entry))
            self._joined.begin()
            bind = AsyncConnection(self._engine, self._joined)
        # A session that joins a transaction that statements have begun is to end it, too.
        AsyncSession.__init__(
            self, bind, sync_session_class=_Core, expire_on_commit=False, join_transaction_mode="control_fully"
        )
        self.sync_session.begin()
        if self._joined is not None:
            # Now, not at its first statement: without one, its commit would leave out what was written before.
            self.sync_session.connection()

    async def _run(self, direct: Direct, shape: Statement, arguments: list[Any]) -> Rows:
        if self._is_busy:
            raise RuntimeError("A transaction does one thing after the other: await a statement before the next.")
        self._must_not_be_lost()
        self._is_busy = True
        try:
            if self._entry is None:
                entry, _ = await self._pool().attempt(direct.begin, self._tenant)
                if self._lost is not None:  # the session was released meanwhile
                    self._pool().drop(entry)
                    self._must_not_be_lost()
                self._entry = entry
            self._wrote = self._wrote or shape.writes
            return await self._on(self._entry, direct.run(self._entry, shape, arguments))
        finally:
            self._is_busy = False

    async def finish(self) -> None:
        """Commit. Raises DatabaseUnavailable if the transaction was lost, whatever has been made of that."""
        self._must_not_be_lost()
        if self.uses_orm:
            await self.commit()
        elif self._direct is not None and self._entry is not None:
            await self._on(self._entry, self._direct.end(self._entry, commit=True))
            self._give_back()

    async def release(self) -> None:
        """Give everything back; what is not committed is rolled back."""
        self._lost = self._lost or RuntimeError("the session is over")
        if self.uses_orm:
            try:
                await self.close()
            finally:
                if self._joined is not None:
                    await greenlet_spawn(self._joined.close)
        elif self._entry is not None and self._is_busy:  # somebody else still waits for a statement
            entry, self._entry = self._entry, None
            self._pool().drop(entry)
        elif self._direct is not None and self._entry is not None:
            with suppress(DatabaseUnavailable):  # then the server rolls back
                await self._on(self._entry, self._direct.end(self._entry, commit=False))
            self._give_back()

    async def _on(self, entry: ConnectionPoolEntry, work: Coroutine[Any, Any, Result]) -> Result:
        """Do something on the connection, which is of no more use if it failed or nobody waits for its answer."""
        try:
            return await work
        except BaseException as error:
            is_useless = isinstance(error, DatabaseUnavailable) or not isinstance(error, Exception)
            if is_useless and self._entry is entry:
                self._entry, self._lost = None, error
                self._pool().drop(entry, error)
            raise

    def _give_back(self) -> None:
        if self._entry is not None:
            self._pool().give_back(self._entry)
            self._entry = None

    def _must_not_be_lost(self) -> None:
        if self._lost is not None:
            raise DatabaseUnavailable("the transaction was lost, and with it what it had written") from self._lost
