"""Engines of both databases, and what they tell of errors."""

import asyncio
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import aiosqlite
import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, ExceptionContext
from sqlalchemy.exc import EmulatedDBAPIException
from sqlalchemy.exc import TimeoutError as WaitedTooLong
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import (
    AsyncAdaptedQueuePool,
    ConnectionPoolEntry,
    PoolProxiedConnection,
    PoolResetState,
    StaticPool,
)
from sqlalchemy.util import await_only

from kernel.database.errors import (
    DRIVER_FAILURES,
    ConcurrentUse,
    DatabaseUnavailable,
    PoolExhausted,
    StalePlan,
    code_of,
    driver_error,
    is_outage,
    is_stale_plan,
    out_of_range,
)
from kernel.database.writes import FAILED, WRITTEN, what_it_writes
from kernel.settings import DatabaseConfig

# A writer of SQLite holds the whole file, so a second connection for writing could only wait inside SQLite, where
# waiting is neither fair nor cancellable; in the pool's queue it is both.
_SQLITE_WRITERS = 1
_WAL_RETRY_SECONDS = 0.01
# In what the pool remembers of a connection: SQLAlchemy is running a statement on it.
_BUSY = "kernel.busy"
ALL_IN_USE = "all connections of the database pool are in use"
# The errors of a connection that cannot be made: the driver's, and SQLAlchemy's around them. asyncpg reports the end
# of a connection at that moment as a mistake of its own.
NO_CONNECTION = (*DRIVER_FAILURES, asyncpg.InternalClientError, EmulatedDBAPIException)


class ConnectionPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool, in which everything that keeps it from giving a connection is DatabaseUnavailable."""

    def __init__(self, creator: Any, pool_size: int = 5, max_overflow: int = 10, **options: Any) -> None:
        super().__init__(creator, pool_size, max_overflow, **options)
        self.limit = pool_size + max_overflow

    def connect(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except WaitedTooLong:
            raise PoolExhausted(ALL_IN_USE) from None
        except NO_CONNECTION as error:
            raise unreachable(error) from error

    def usage(self) -> tuple[int, int, int, int]:
        """Return how many connections are in use and idle, how many there may be, and how many callers wait for one."""
        return self.checkedout(), self.checkedin(), self.limit, 0

    async def check_aside(self) -> bool:
        """Return True if the pool has asked the database without one of its connections; False to use one."""
        return False


def is_file(url: URL) -> bool:
    """Return whether a URL names a SQLite database that is not in memory."""
    return url.get_backend_name() == "sqlite" and url.database not in {None, "", ":memory:"}


def postgresql_engine(url: URL, config: DatabaseConfig, pool_class: type[ConnectionPool]) -> AsyncEngine:
    """Return one engine for reads and writes: they share its pool."""
    of_driver: dict[str, Any] = {
        "timeout": config.connect_timeout_seconds,
        "command_timeout": config.command_timeout_seconds,
        "connection_class": TruthfulConnection,
    }
    if config.pooler == "transaction":
        # Without caches asyncpg and SQLAlchemy prepare statements without names, which other clients could have taken.
        no_names = {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
        of_driver |= {"connection_class": PooledConnection, **no_names}
    engine = create_async_engine(
        url,
        poolclass=pool_class,
        pool_size=config.pool_size,
        max_overflow=config.max_overflow,
        pool_timeout=config.pool_timeout_seconds,
        pool_recycle=config.pool_recycle_seconds,
        pool_pre_ping=config.pool_pre_ping,
        skip_autocommit_rollback=True,
        hide_parameters=True,  # an error in the log must not show what a caller sent
        connect_args=of_driver,
    )
    _listen(engine)
    return engine


def sqlite_engine(url: URL, config: DatabaseConfig, pool_class: type[ConnectionPool], *, writes: bool) -> AsyncEngine:
    """Return an engine for the readers of a file, or for its one writer."""
    options: dict[str, Any] = {"poolclass": StaticPool}
    if is_file(url):
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        size, overflow = (_SQLITE_WRITERS, 0) if writes else (config.pool_size, config.max_overflow)
        options = {"poolclass": pool_class, "pool_size": size, "max_overflow": overflow}
        options["pool_timeout"] = config.pool_timeout_seconds
    engine = create_async_engine(
        url,
        connect_args={
            "isolation_level": None,  # we say BEGIN ourselves; the driver would, later and without IMMEDIATE
            "async_creator_fn": SqliteConnection,
        },
        # SQLAlchemy takes a connection that says BEGIN itself to be in autocommit, also while a transaction is open.
        skip_autocommit_rollback=not writes,
        hide_parameters=True,
        **options,
    )

    def prepare(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        # The order matters: changing the journal's mode may itself have to wait.
        cursor.execute(f"PRAGMA busy_timeout = {int(config.busy_timeout_seconds * 1000)}")
        _use_wal(cursor, config.busy_timeout_seconds)
        # Safe with WAL: a power cut may lose the last commits, never the file (https://sqlite.org/pragma.html).
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    def begin(connection: Connection) -> None:
        # Without IMMEDIATE two transactions that read and then write overwrite each other or fail half way.
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    def end(connection: Any, _record: Any, state: PoolResetState) -> None:
        # SQLAlchemy takes a COMMIT that fails for the end of the transaction; for SQLite it is none.
        if state.asyncio_safe and connection.driver_connection.in_transaction:
            connection.rollback()

    event.listen(engine.sync_engine, "connect", prepare)
    event.listen(engine.sync_engine, "reset", end)
    event.listen(engine.sync_engine, "begin", begin)
    _listen(engine)
    return engine


def _use_wal(cursor: Any, seconds: float) -> None:
    """Change the mode of the journal. SQLite does not wait here, because two processes that do this could deadlock."""
    until = time.monotonic() + seconds
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except Exception as error:
            if code_of(error) != "SQLITE_BUSY" or time.monotonic() >= until:
                raise
        else:
            return
        await_only(asyncio.sleep(_WAL_RETRY_SECONDS))


class _Closed(SimpleQueue[Any]):
    """Takes the place of the queue of a thread that was stopped. It answers what the thread would never run."""

    def put_nowait(self, item: Any) -> None:
        future, _ = item
        if future is not None:
            future.set_result(None)


class SqliteConnection(aiosqlite.Connection):
    """A connection whose end breaks off the statement that is running, which would keep the file for as long.

    Its thread is stopped once: a second stop, which a repeated cancellation brings, would be waited for without end.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._sqlite: sqlite3.Connection | None = None
        self._stopped: asyncio.Future[Any] | None = None
        self._is_stopped = False

        def connect() -> sqlite3.Connection:
            self._sqlite = sqlite3.connect(*args, **options)
            return self._sqlite

        super().__init__(connect, iter_chunk_size=64)

    async def close(self) -> None:
        self._interrupt()
        await super().close()

    def stop(self) -> asyncio.Future[Any] | None:
        if not self._is_stopped:
            self._is_stopped = True
            self._interrupt()
            self._stopped = super().stop()
            self._tx = _Closed()  # SQLAlchemy's setter of the isolation level writes to it, also after the stop
        return self._stopped

    def _interrupt(self) -> None:
        if self._sqlite is not None:
            with suppress(sqlite3.ProgrammingError):  # it is closed
                self._sqlite.interrupt()


class TruthfulConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no annotations
    """A connection on which a COMMIT that PostgreSQL answers with ROLLBACK is an error.

    PostgreSQL does so when a statement of the transaction has failed; asyncpg reports it as a success.
    """

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        tag: str = await super().execute(query, *args, **options)
        if tag == "ROLLBACK" and query.startswith("COMMIT"):
            raise asyncpg.InFailedSQLTransactionError("a statement of the transaction failed: it was rolled back")
        return tag


class PooledConnection(TruthfulConnection):
    """A connection through a pooler that may change the server connection after each transaction."""

    async def set_type_codec(self, *args: Any, **options: Any) -> None:
        async with self.transaction():  # it asks the server in several steps
            await super().set_type_codec(*args, **options)


def _listen(engine: AsyncEngine) -> None:
    event.listen(engine.sync_engine, "begin", _begin_anew)
    event.listen(engine.sync_engine, "before_cursor_execute", _enter_statement)
    event.listen(engine.sync_engine, "after_cursor_execute", _leave_statement)
    event.listen(engine.sync_engine, "handle_error", _handle_error)
    event.listen(engine.sync_engine, "checkin", _close_if_busy)


def _begin_anew(connection: Connection) -> None:
    connection.info.pop(WRITTEN, None)
    connection.info.pop(FAILED, None)


def _enter_statement(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
    if connection.info.get(_BUSY):
        raise ConcurrentUse
    connection.info[_BUSY] = True
    if (what := what_it_writes(statement)) is not None:
        connection.info.setdefault(WRITTEN, what)


def _leave_statement(connection: Connection, *_: Any) -> None:
    connection.info.pop(_BUSY, None)


def _close_if_busy(_connection: Any, record: ConnectionPoolEntry) -> None:
    """Close a connection that comes back while a task still waits for its answer, which no other user may read."""
    if record.info.pop(_BUSY, False):
        driver: Any = record.driver_connection
        if hasattr(driver, "terminate"):  # of asyncpg, whose polite end would wait for the answer
            driver.terminate()
        record.invalidate()


def _handle_error(context: ExceptionContext) -> None:
    """Note a failure, and give every sign of an outage one type; asyncpg raises some of them bare."""
    error = context.original_exception
    if context.connection is not None and not context.connection.closed:
        with suppress(NotImplementedError):  # SQLAlchemy asks for the server's version on a connection without `info`
            context.connection.info.pop(_BUSY, None)
            is_of_database = context.sqlalchemy_exception is not None  # not one of Python's before it was asked
            if is_of_database and not context.connection.in_nested_transaction():  # whose end undoes the failure
                context.connection.info.setdefault(FAILED, error)
    # A cancellation stays one, and the pool handles the errors of its pings: it connects anew.
    if not isinstance(error, Exception) or context.is_pre_ping:
        return
    if isinstance(error, OverflowError):
        raise out_of_range(error, context.statement) from error
    if context.connection is None:
        raise unreachable(error) from error
    if is_stale_plan(error):
        raise StalePlan("the table has changed since the statement was prepared: try again") from error
    if context.is_disconnect or is_outage(error):
        raise DatabaseUnavailable(f"the database gave no answer ({type(error).__name__})") from error


def unreachable(error: BaseException) -> DatabaseUnavailable:
    """Return the error for a connection that cannot be made."""
    return DatabaseUnavailable(f"the database cannot be reached ({type(driver_error(error)).__name__})")
