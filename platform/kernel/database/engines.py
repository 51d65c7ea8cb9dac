"""Engines of both databases, and the pool whose connections they share."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolProxiedConnection, StaticPool
from sqlalchemy.util import await_only, greenlet_spawn

from kernel.database.errors import DatabaseUnavailable, LostConnection, is_outage
from kernel.settings import DatabaseConfig

# A writer of SQLite holds the whole file, so a second connection for writing could only wait inside SQLite, where
# waiting is neither fair nor cancellable; in the pool's queue it is both.
_SQLITE_WRITERS = 1
_IDLE_SINCE = "kernel.idle_since"

Result = TypeVar("Result")


class BoundedPool(AsyncAdaptedQueuePool):
    """A pool of connections that are handed out in the order in which they were asked for.

    SQLAlchemy takes connections through `connect`, inside a greenlet; `lend` gives them to those who have none.
    Whatever keeps it from handing out a connection has one type, DatabaseUnavailable: asyncpg raises OSError,
    TimeoutError or errors of its own while connecting, none of which SQLAlchemy wraps.
    """

    # In seconds: how long a connection may have been idle before it must answer a ping, when it is taken by SQLAlchemy
    # and when it is lent; and how long it has for that. None: never.
    ping_after: float | None = None
    lend_ping_after: float | None = None
    ping_timeout: float = 1

    def __init__(self, creator: Any, pool_size: int = 5, max_overflow: int = 10, **options: Any) -> None:
        super().__init__(creator, pool_size, max_overflow, **options)
        # SQLAlchemy's own queue lets whoever comes first take what was meant for one who waits; under load some wait
        # for ever. asyncio's semaphore hands on in order.
        self._turns = asyncio.Semaphore(pool_size + max_overflow)
        self._chosen: ConnectionPoolEntry | None = None

    def connect(self) -> PoolProxiedConnection:
        return await_only(self._take(self.ping_after))

    async def lend(self) -> PoolProxiedConnection:
        """A connection to a server that was alive when last heard of. Give it back with `close`."""
        return await self._take(self.lend_ping_after)

    async def attempt(
        self, work: Callable[[PoolProxiedConnection], Awaitable[Result]]
    ) -> tuple[PoolProxiedConnection, Result]:
        """Do something with a connection, and again with a new one if the first was lost before that had an effect.

        So a connection that died while nobody used it is never seen by a request, and none is pinged beforehand.
        """
        for is_last in (False, True):
            connection = await self.lend()
            try:
                return connection, await work(connection)
            except LostConnection as error:
                self._invalidate(connection, error)  # and each that is as old, when its turn comes
                if is_last:
                    raise
            except Exception:
                connection.close()
                raise
            except (
                BaseException
            ) as error:  # cancelled: the answer is still to come, and must not meet the next question
                connection.invalidate(error)
                raise
        raise AssertionError("unreachable")

    async def _take(self, ping_after: float | None) -> PoolProxiedConnection:
        while True:
            await self._turn()
            self._chosen = self._pool.get(block=False) if self.checkedin() else None
            try:
                # Only opening one needs SQLAlchemy's greenlet.
                connection = self._connect() if self._is_open(self._chosen) else await greenlet_spawn(self._connect)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                raise DatabaseUnavailable(f"the database cannot be reached ({type(error).__name__})") from error
            if ping_after is None or await self._is_alive(connection, ping_after):
                return connection
            self._invalidate(connection)

    async def _turn(self) -> None:
        if not self._turns.locked():
            await self._turns.acquire()  # at once
            return
        try:
            async with asyncio.timeout(self._timeout):
                await self._turns.acquire()
        except TimeoutError:
            raise DatabaseUnavailable("all connections of the database pool are in use") from None

    def _connect(self) -> PoolProxiedConnection:
        return super().connect()

    def _is_open(self, record: Any) -> bool:
        """Whether SQLAlchemy will hand out this record's connection as it is."""
        if record is None or record.dbapi_connection is None or record.starttime < self._invalidate_time:
            return False
        return self._recycle < 0 or time.time() - record.starttime <= self._recycle

    async def _is_alive(self, connection: PoolProxiedConnection, ping_after: float) -> bool:
        """Whether the driver knows of no end and, after a long pause, the server still answers.

        A connection that was ended properly is known to be; one that a firewall dropped is not.
        """
        driver: Any = connection.driver_connection
        if driver.is_closed():
            return False
        if time.monotonic() - connection.info.get(_IDLE_SINCE, float("inf")) < ping_after:
            return True
        try:
            async with asyncio.timeout(self.ping_timeout):
                await driver.fetchrow(";")  # an empty query, as SQLAlchemy's own ping
        except Exception:  # noqa: BLE001  # asyncpg has many for this, some that say they are its own mistakes
            return False
        except BaseException as error:
            connection.invalidate(error)
            raise
        return True

    def _do_get(self) -> ConnectionPoolEntry:
        if self._chosen is not None:
            chosen, self._chosen = self._chosen, None
            return chosen
        try:
            return super()._do_get()
        except BaseException:
            self._turns.release()
            raise

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        record.info[_IDLE_SINCE] = time.monotonic()
        super()._do_return_conn(record)
        self._turns.release()


def postgresql_engine(url: URL, config: DatabaseConfig) -> AsyncEngine:
    """One engine for reads and writes: they share its pool."""
    engine = create_async_engine(
        url,
        poolclass=BoundedPool,
        pool_size=config.pool_size,
        max_overflow=config.max_overflow,
        pool_timeout=config.pool_timeout_seconds,
        pool_recycle=config.pool_recycle_seconds,
        pool_use_lifo=True,  # idle connections age out instead of taking turns
        skip_autocommit_rollback=True,
        hide_parameters=True,  # an error in the log must not show what a caller sent
        connect_args={
            "timeout": config.connect_timeout_seconds,
            "command_timeout": config.command_timeout_seconds,
        },
    )
    pool = engine.sync_engine.pool
    assert isinstance(pool, BoundedPool)  # noqa: S101  # for the type checker: as was said above
    pool.ping_after = 0 if config.pool_pre_ping else config.pool_ping_after_idle_seconds
    pool.lend_ping_after = config.pool_ping_after_idle_seconds
    pool.ping_timeout = config.connect_timeout_seconds
    event.listen(engine.sync_engine, "handle_error", _explain_outage)
    return engine


def sqlite_engine(url: URL, config: DatabaseConfig, *, writes: bool) -> AsyncEngine:
    """An engine for the readers of a file, or for its one writer."""
    in_memory = url.database in {None, "", ":memory:"}
    if not in_memory:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"poolclass": StaticPool}
    if not in_memory:
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
        cursor.execute("PRAGMA journal_mode = WAL")
        # Safe with WAL: a power cut may lose the last commits, never the file (https://sqlite.org/pragma.html).
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    def begin(connection: Connection) -> None:
        # Without IMMEDIATE two transactions that read and then write overwrite each other or fail half way.
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine.sync_engine, "connect", prepare)
    event.listen(engine.sync_engine, "begin", begin)
    event.listen(engine.sync_engine, "handle_error", _explain_outage)
    return engine


def _explain_outage(context: ExceptionContext) -> None:
    """Give every sign of an outage during a statement one type; asyncpg raises some of them bare."""
    if context.is_pre_ping:  # the pool handles these: it connects anew
        return
    error = context.original_exception
    if context.connection is None:
        raise DatabaseUnavailable(f"the database cannot be reached ({type(error).__name__})") from error
    if isinstance(error, OSError | TimeoutError) or context.is_disconnect or is_outage(error):
        raise DatabaseUnavailable(f"the database gave no answer ({type(error).__name__})") from error
