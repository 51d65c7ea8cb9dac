"""Engines of both databases."""

import asyncio
import time
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import PoolResetState, StaticPool
from sqlalchemy.util import await_only

from kernel.database.errors import (
    ConcurrentUse,
    DatabaseUnavailable,
    StalePlan,
    code_of,
    is_outage,
    is_stale_plan,
    out_of_range,
)
from kernel.database.search import add_to_sqlite
from kernel.database.writes import begin_anew, note_failure, note_write
from kernel.ext.pool.bounded_pool import BUSY, BoundedPool
from kernel.ext.roles.roles import quoted
from kernel.settings import DatabaseConfig

# A writer of SQLite holds the whole file, so a second connection for writing could only wait inside SQLite, where
# waiting is neither fair nor cancellable; in the pool's queue it is both.
_SQLITE_WRITERS = 1
_WAL_RETRY_SECONDS = 0.01


def is_file(url: URL) -> bool:
    """Whether a URL names a SQLite database that is not in memory."""
    return url.get_backend_name() == "sqlite" and url.database not in {None, "", ":memory:"}


def postgresql_engine(url: URL, config: DatabaseConfig) -> AsyncEngine:
    """One engine for reads and writes: they share its pool."""
    engine = create_async_engine(
        url,
        poolclass=BoundedPool,
        pool_size=config.pool_size,
        max_overflow=config.max_overflow,
        pool_timeout=config.pool_timeout_seconds,
        pool_recycle=config.pool_recycle_seconds,
        skip_autocommit_rollback=True,
        hide_parameters=True,  # an error in the log must not show what a caller sent
        connect_args={"command_timeout": config.command_timeout_seconds, **driver_arguments(config)},
    )
    pool = engine.sync_engine.pool
    assert isinstance(pool, BoundedPool)  # noqa: S101  # for the type checker: as was said above
    pool.ping_after = 0 if config.pool_pre_ping else config.pool_ping_after_idle_seconds
    pool.attempt_ping_after = config.pool_ping_after_idle_seconds
    pool.ping_timeout = config.connect_timeout_seconds
    pool.overflow_lingers = config.pool_overflow_lingers_seconds
    pool.follow_pulse()
    _listen(engine)
    return engine


def driver_arguments(config: DatabaseConfig) -> dict[str, Any]:
    """Return what the driver needs to know for every connection to PostgreSQL."""
    arguments: dict[str, Any] = {
        "timeout": config.connect_timeout_seconds,
        "connection_class": TruthfulConnection,
    }
    if config.pooler == "transaction":
        # Without caches asyncpg and SQLAlchemy prepare statements without names, which other clients could have taken.
        no_names = {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
        arguments |= {"connection_class": PooledConnection, **no_names}
    return arguments


def sqlite_engine(url: URL, config: DatabaseConfig, *, writes: bool) -> AsyncEngine:
    """An engine for the readers of a file, or for its one writer."""
    options: dict[str, Any] = {"poolclass": StaticPool}
    if is_file(url):
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        size = _SQLITE_WRITERS if writes else config.pool_size
        options = {
            "poolclass": BoundedPool,
            "pool_size": size,
            "max_overflow": 0 if writes else config.max_overflow,
            "pool_timeout": config.pool_timeout_seconds,
        }
    engine = create_async_engine(
        url,
        connect_args={"isolation_level": None},  # we say BEGIN ourselves; the driver would, later and without IMMEDIATE
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
        add_to_sqlite(connection)

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
    """Change the journal's mode. SQLite waits for nobody here: of two who do this, each may hold what both need."""
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
    event.listen(engine.sync_engine, "begin", begin_anew)
    event.listen(engine.sync_engine, "begin", _take_role)
    event.listen(engine.sync_engine, "before_cursor_execute", _enter_statement)
    event.listen(engine.sync_engine, "after_cursor_execute", _leave_statement)
    event.listen(engine.sync_engine, "handle_error", _handle_error)


def _take_role(connection: Connection) -> None:
    """Take the module's role for this transaction alone, where the server connection belongs to no session."""
    tenant = getattr(connection.engine, "tenant", None)
    if tenant is not None and tenant.local_role is not None:
        connection.exec_driver_sql(f"SET LOCAL ROLE {quoted(tenant.local_role)}")


def _enter_statement(connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
    if connection.info.get(BUSY):
        raise ConcurrentUse
    connection.info[BUSY] = True
    note_write(connection, cursor, statement)


def _leave_statement(connection: Connection, *_: Any) -> None:
    connection.info.pop(BUSY, None)


def _handle_error(context: ExceptionContext) -> None:
    error = context.original_exception
    if context.connection is not None and not context.connection.closed:
        context.connection.info.pop(BUSY, None)
        if context.sqlalchemy_exception is not None:  # the database's, not one of Python's before it was asked
            note_failure(context.connection, error)
    if isinstance(error, Exception):  # a cancellation stays one
        _explain_outage(context, error)


def _explain_outage(context: ExceptionContext, error: Exception) -> None:
    """Give every sign of an outage during a statement one type; asyncpg raises some of them bare."""
    if context.is_pre_ping:  # the pool handles these: it connects anew
        return
    if isinstance(error, OverflowError):
        raise out_of_range(error, context.statement) from error
    if context.connection is None:
        raise DatabaseUnavailable(f"the database cannot be reached ({type(error).__name__})") from error
    if is_stale_plan(error):
        raise StalePlan("the table has changed since the statement was prepared: try again") from error
    if context.is_disconnect or is_outage(error):
        raise DatabaseUnavailable(f"the database gave no answer ({type(error).__name__})") from error
