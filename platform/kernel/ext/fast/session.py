"""Sessions that run statements on the driver until the ORM is needed."""

from collections.abc import Callable, Collection, Coroutine, Hashable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql import ClauseElement
from sqlalchemy.util import greenlet_spawn

from kernel.database import AsyncDBPool, BaseRepository, Database
from kernel.database.errors import ConcurrentUse, DatabaseUnavailable, SessionClosed, StalePlan, TransactionAborted
from kernel.database.runner import Rows, StatementRunner
from kernel.database.session import DatabaseSession, ReadSession, Runnable, WriteSession
from kernel.database.statements import ID, Model, listed
from kernel.ext.fast import statements
from kernel.ext.fast.driver import DriverExecutor, Statement, Values
from kernel.ext.pool.bounded_pool import BoundedPool
from kernel.ext.pool.quota import QuotaEngine

# Attributes that AsyncSession's constructor sets. Every operation that needs the ORM reads one of them.
_MADE_LATE = frozenset({"sync_session", "_proxied", "_async_bind", "_async_binds"})

Result = TypeVar("Result")


class FastDatabase(Database):
    """Opens sessions that run statements on the driver where possible."""

    def __init__(self, pool: AsyncDBPool, module: str | None) -> None:
        super().__init__(pool, module)
        # A pooler in transaction mode keeps both steps of a statement on one server connection only in a transaction.
        is_possible = not self.pooled_by_transaction
        on_postgresql = self.writer.dialect.name == "postgresql"
        is_bounded = isinstance(self.reader.sync_engine.pool, BoundedPool)
        self._reads = DriverExecutor(self.reader.sync_engine) if is_possible and is_bounded else None
        # On SQLite only SQLAlchemy runs transactions: waiting for the file takes longer than the driver would save.
        self._writes = DriverExecutor(self.writer.sync_engine) if is_possible and on_postgresql else None

    def new_reader(self) -> ReadSession:
        if self._reads is None:
            return super().new_reader()
        return FastReadSession(self.reader, self._reads, self.streaming)

    def new_writer(self) -> WriteSession:
        return super().new_writer() if self._writes is None else FastWriteSession(self.writer, self._writes)

    async def run(self, statement: Runnable, params: Mapping[str, Any] | None = None) -> Rows:
        """Return the rows of one statement: on PostgreSQL in a single round trip."""
        if self._writes is not None:
            session = FastReadSession(self.writer, self._writes)
            if (rows := await session.fetch(statement, params)) is not None:
                return rows
        return await super().run(statement, params)


class FastSession(DatabaseSession):
    """An AsyncSession that starts the ORM only when it is needed; until then it runs statements on the driver."""

    def __init__(self, engine: AsyncEngine, driver: DriverExecutor) -> None:
        self.set_up(engine)
        self.driver = driver
        self._quota = engine.sync_engine.quota if isinstance(engine.sync_engine, QuotaEngine) else None

    def __getattr__(self, name: str) -> Any:
        if name not in _MADE_LATE:
            raise AttributeError(name)
        self.lease.check()
        self.start_orm()
        return self.__dict__[name]

    @property
    def uses_orm(self) -> bool:
        """Return True if the ORM is in use, which may hold changes that it has not flushed."""
        return "sync_session" in self.__dict__

    @property
    def runner(self) -> StatementRunner | None:
        return None if self.uses_orm else self

    @property
    def pool(self) -> BoundedPool:
        """Return the pool of the session's connections."""
        pool = self.engine.sync_engine.pool
        assert isinstance(pool, BoundedPool)  # noqa: S101  # for the type checker: others have no DriverExecutor
        return pool

    def get_bind(self, *args: Any, **options: Any) -> Engine | Connection:
        """Return what SQLAlchemy's session returns; without arguments this does not start the ORM."""
        return super().get_bind(*args, **options) if self.uses_orm or args or options else self.engine.sync_engine

    async def fetch(
        self, statement: ClauseElement, params: Mapping[str, Any] | None = None, values: Values | None = None
    ) -> Rows | None:
        """Return the rows of a statement, run on the driver; None if it must go through SQLAlchemy.

        See DriverExecutor.prepare. Raises SessionClosed, and TransactionAborted after a failed statement.
        """
        if self.uses_orm:
            return None
        self.lease.check()
        prepared = self.driver.prepare(statement, params, values)
        return None if prepared is None else await self.run(*prepared)

    async def fetch_shape(
        self,
        key: Hashable,
        conditions: Sequence[ColumnElement[bool]],
        build: Callable[[], Select[Any]],
        params: Mapping[str, Any],
    ) -> Rows | None:
        known = statements.shaped(key, conditions, build)
        return None if known is None else await self.fetch(known[0], params, known[1])

    async def insert_row(
        self, repository: BaseRepository[Any, Any], into: type[BaseModel], values: Mapping[str, Any]
    ) -> Rows | None:
        model: Model = repository.model
        parameters = statements.parameters_of(model, values)
        return None if parameters is None else await self.fetch(statements.insertion(model, into), parameters)

    async def update_row(
        self,
        repository: BaseRepository[Any, Any],
        into: type[BaseModel],
        id_: Any,
        versions: Collection[int] | None,
        values: Mapping[str, Any],
    ) -> Rows | None:
        model: Model = repository.model
        parameters = statements.parameters_of(model, values)
        if parameters is None:
            return None
        statement = statements.change(model, into, repository.own, of_version=versions is not None)
        return await self.fetch(statement, parameters | _row(repository, id_, versions))

    async def delete_row(
        self, repository: BaseRepository[Any, Any], id_: Any, versions: Collection[int] | None
    ) -> Rows | None:
        model: Model = repository.model
        if not statements.is_one_table(model):
            return None
        statement = statements.deletion(model, repository.own, of_version=versions is not None)
        return await self.fetch(statement, _row(repository, id_, versions))

    async def run(self, shape: Statement, arguments: list[Any]) -> Rows:
        """Run a prepared statement on a connection of the session."""
        raise NotImplementedError


def _row(repository: BaseRepository[Any, Any], id_: Any, versions: Collection[int] | None) -> dict[str, Any]:
    """Return the parameters that identify a row."""
    row = {ID: id_, **repository.known}
    return row if versions is None else row | {statements.VERSIONS: listed(versions)}


class FastReadSession(FastSession, ReadSession):
    """A read session in which each statement takes a connection from the pool and returns it."""

    def __init__(self, engine: AsyncEngine, driver: DriverExecutor, streaming: AsyncEngine | None = None) -> None:
        FastSession.__init__(self, engine, driver)
        self.streaming = streaming or engine

    async def run(self, shape: Statement, arguments: list[Any]) -> Rows:
        pool = self.pool
        entry, rows = await pool.attempt(partial(self.driver.run, shape=shape, arguments=arguments), self._quota)
        pool.give_back(entry)
        return rows

    async def release_connection(self) -> None:
        if self.uses_orm:
            await super().release_connection()

    async def release(self) -> None:
        if self.uses_orm or self.streams:
            await super().release()
        self.lease.end()


class FastWriteSession(FastSession, WriteSession):
    """One transaction. Its first statement begins it on the driver; the ORM takes it over when it is needed."""

    # The connection on which the transaction began, and the same connection as SQLAlchemy uses it.
    _entry: ConnectionPoolEntry | None = None
    _joined: Connection | None = None
    # Why no further statement of the transaction can succeed.
    _failure: BaseException | None = None
    _is_busy = False
    # A short description of the writes on the driver.
    _wrote: str | None = None

    def pending_writes(self) -> str | None:
        if self._failure is not None:
            return None  # Nothing of it can be committed.
        return (super().pending_writes() if self.uses_orm else None) or self._wrote

    async def release_connection(self) -> None:
        if self._failure is not None or self._is_busy:
            return  # The transaction has failed, or another task is using it.
        await self.finish()

    def start_orm(self) -> None:
        self._check()
        if self._entry is None:
            super().start_orm()
            return
        connection = self.lease.add(self.pool.proxied(self._entry))
        self._entry = None
        self._joined = Connection(self.engine.sync_engine, connection)
        self._joined.begin()
        # A session that joins a transaction on the driver also ends it.
        AsyncSession.__init__(
            self,
            AsyncConnection(self.engine, self._joined),
            sync_session_class=self.core_class,
            expire_on_commit=False,
            join_transaction_mode="control_fully",
        )
        # Join now, not at the session's first statement: without a statement, its commit would omit the earlier writes.
        self.sync_session.connection()

    async def run(self, shape: Statement, arguments: list[Any]) -> Rows:
        if self._is_busy:
            raise ConcurrentUse
        self._check()
        self._is_busy = True
        try:
            if self._entry is None:
                return await self._begin_with(shape, arguments)
            self._wrote = self._wrote or shape.writes
            return await self._on(self._entry, self.driver.run(self._entry, shape, arguments))
        finally:
            self._is_busy = False

    async def _begin_with(self, shape: Statement, arguments: list[Any]) -> Rows:
        """Run the first statement of the transaction, and repeat it if the table has changed since its plan."""
        driver = self.driver
        entry, _ = await self.pool.attempt(driver.begin, self._quota)
        if self.is_over:  # The session was released in the meantime.
            self.pool.drop(entry)
            raise SessionClosed
        self._entry, self._wrote = entry, shape.writes
        try:
            return await self._on(entry, driver.run(entry, shape, arguments))
        except StalePlan:
            if self._entry is not entry:
                raise
        self._failure = None
        await self._on(entry, driver.end(entry, commit=False))
        await self._on(entry, driver.begin(entry))
        return await self._on(entry, driver.run(entry, shape, arguments))

    async def finish(self) -> None:
        """Commit. Raises TransactionAborted after a statement that failed, and DatabaseUnavailable after an outage."""
        self._check()
        if self.uses_orm:
            await super().finish()
            await self._close_joined()
        elif self._entry is not None:
            await self._on(self._entry, self.driver.end(self._entry, commit=True))
            self._give_back()

    async def release(self) -> None:
        self.lease.is_over = True
        try:
            with suppress(Exception):  # Of a lost or busy connection, the server rolls back.
                if self.uses_orm:
                    await self.close()
                    await self._close_joined()
                elif self._entry is not None and not self._is_busy:
                    await self._on(self._entry, self.driver.end(self._entry, commit=False))
                    self._give_back()
        finally:
            self.lease.end()
            if self._entry is not None:
                entry, self._entry = self._entry, None
                self.pool.drop(entry)

    async def _close_joined(self) -> None:
        if self._joined is not None:
            await greenlet_spawn(self._joined.close)
            self._joined = None
            self.bind = self.leased(self.engine)
            self.sync_session.bind = self.bind.sync_engine

    async def _on(self, entry: ConnectionPoolEntry, work: Coroutine[Any, Any, Result]) -> Result:
        """Use the connection. Close it if it failed or the caller was cancelled before the answer."""
        try:
            return await work
        except BaseException as error:
            self._failure = self._failure or error
            is_useless = isinstance(error, DatabaseUnavailable) or not isinstance(error, Exception)
            if is_useless and not isinstance(error, StalePlan) and self._entry is entry:
                self._entry = None
                self.pool.drop(entry, error)
            raise

    def _give_back(self) -> None:
        if self._entry is not None:
            self.pool.give_back(self._entry)
            self._entry = None

    def _check(self) -> None:
        """Raise if no statement of this transaction can succeed any more."""
        self.lease.check()
        if isinstance(self._failure, DatabaseUnavailable):
            raise DatabaseUnavailable("the transaction was lost, and with it what it had written") from self._failure
        if self._failure is not None:
            raise TransactionAborted(self._failure) from self._failure
