"""Engines of both databases, and the pool whose connections they share."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolProxiedConnection, StaticPool
from sqlalchemy.util import await_only, greenlet_spawn
from sqlalchemy.util.queue import Queue

from kernel.database.errors import DatabaseUnavailable, LostConnection, is_outage
from kernel.settings import DatabaseConfig

# A writer of SQLite holds the whole file, so a second connection for writing could only wait inside SQLite, where
# waiting is neither fair nor cancellable; in the pool's queue it is both.
_SQLITE_WRITERS = 1
_IDLE_SINCE = "kernel.idle_since"

Result = TypeVar("Result")


class BoundedPool(AsyncAdaptedQueuePool):
    """A pool of connections that are handed out in the order in which they were asked for.

    SQLAlchemy takes connections through `connect`, inside a greenlet; `attempt` is for those who have none. Whatever
    keeps the pool from handing one out has one type, DatabaseUnavailable: asyncpg raises OSError, TimeoutError or
    errors of its own while connecting, none of which SQLAlchemy wraps.

    An entry is one place in the pool and the connection that is in it now. SQLAlchemy would wrap it anew each time.

    Connections above the pool's size stay until they have been idle for a while. SQLAlchemy closes each at its return,
    also while somebody waits for one; a load that needs them opens them again and again, for more than it asks of them.
    """

    # A plain one, of which only the deque is used: nobody waits in it, and there is always room.
    _queue_class = Queue  # type: ignore[assignment]  # as the base's, which is no deque

    # In seconds: how long a connection may have been idle before it must answer a ping, when SQLAlchemy takes it and
    # when a statement of ours does; and how long it has for that. None: never.
    ping_after: float | None = None
    attempt_ping_after: float | None = None
    ping_timeout: float = 1
    # How long those above the pool's size are kept, in seconds.
    overflow_lingers: float = 30

    def __init__(self, creator: Any, pool_size: int = 5, max_overflow: int = 10, **options: Any) -> None:
        super().__init__(creator, pool_size, max_overflow, **options)
        self._idle: deque[ConnectionPoolEntry] = self._pool.queue  # type: ignore[attr-defined]  # the one used last on the right
        # SQLAlchemy's own queue lets whoever comes first take what was meant for one who waits; under load some wait
        # for ever. asyncio's semaphore hands on in order.
        self._turns = asyncio.Semaphore(pool_size + max_overflow)
        self._chosen: ConnectionPoolEntry | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def connect(self) -> PoolProxiedConnection:
        return self.proxied(await_only(self._take(self.ping_after)))

    def proxied(self, entry: ConnectionPoolEntry) -> PoolProxiedConnection:
        """An entry as SQLAlchemy's connections take it. Closing that gives it back."""
        self._chosen = entry
        return super().connect()

    async def attempt(
        self, work: Callable[[ConnectionPoolEntry], Awaitable[Result]]
    ) -> tuple[ConnectionPoolEntry, Result]:
        """Do something with a connection, and again with a new one if the first was lost before that had an effect.

        So a connection that died while nobody used it is never seen by a request, and none is pinged beforehand.
        """
        for is_last in (False, True):
            entry = await self._take(self.attempt_ping_after)
            try:
                return entry, await work(entry)
            except LostConnection as error:
                self._invalidate_time = time.time()  # those of its age are dead, too: SQLAlchemy replaces them
                self.drop(entry, error)
                if is_last:
                    raise
            except BaseException as error:
                if isinstance(error, DatabaseUnavailable) or not isinstance(error, Exception):
                    self.drop(entry, error)  # late or cancelled: the next to use it must not meet the answer to this
                else:
                    self.give_back(entry)
                raise
        raise AssertionError("unreachable")

    def give_back(self, entry: ConnectionPoolEntry) -> None:
        """End the use of an entry that `attempt` gave."""
        self._do_return_conn(entry)

    def drop(self, entry: ConnectionPoolEntry, error: BaseException | None = None) -> None:
        """Give back an entry whose connection is of no more use."""
        entry.invalidate(error)
        self._do_return_conn(entry)

    async def _take(self, ping_after: float | None) -> ConnectionPoolEntry:
        while True:
            await self._turn()
            entry = self._idle.pop() if self._idle else None
            if entry is None or not self._is_open(entry):
                try:
                    return await greenlet_spawn(self._opened, entry)  # to connect needs SQLAlchemy's greenlet
                except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                    raise DatabaseUnavailable(f"the database cannot be reached ({type(error).__name__})") from error
            if ping_after is None or await self._is_alive(entry, ping_after):
                return entry
            self.drop(entry)

    async def _turn(self) -> None:
        if not self._turns.locked():
            await self._turns.acquire()  # at once
            return
        try:
            async with asyncio.timeout(self._timeout):
                await self._turns.acquire()
        except TimeoutError:
            raise DatabaseUnavailable("all connections of the database pool are in use") from None

    def _is_open(self, entry: Any) -> bool:
        """Whether the entry has a connection that is not to be replaced, by SQLAlchemy's own conditions."""
        if entry.dbapi_connection is None or entry.starttime < self._invalidate_time:
            return False
        return self._recycle < 0 or time.time() - entry.starttime <= self._recycle

    def _opened(self, entry: Any) -> ConnectionPoolEntry:
        """The entry, or a new one, with an open connection."""
        if entry is None:
            entry = self._do_get()
        try:
            entry.get_connection()
        except BaseException as error:
            self.drop(entry, error)
            raise
        return entry  # type: ignore[no-any-return]  # as it came

    async def _is_alive(self, entry: ConnectionPoolEntry, ping_after: float) -> bool:
        """Whether the driver knows of no end and, after a long pause, the server still answers.

        A connection that was ended properly is known to be; one that a firewall dropped is not.
        """
        driver: Any = entry.driver_connection
        if driver.is_closed():
            return False
        if time.monotonic() - entry.info.get(_IDLE_SINCE, float("inf")) < ping_after:
            return True
        try:
            async with asyncio.timeout(self.ping_timeout):
                await driver.fetchrow(";")  # an empty query, as SQLAlchemy's own ping
        except Exception:  # noqa: BLE001  # asyncpg has many for this, some that say they are its own mistakes
            return False
        except BaseException as error:
            self.drop(entry, error)
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
        self._idle.append(record)
        self._turns.release()
        if self._next_look is None and len(self._idle) > self.size():
            with suppress(RuntimeError):  # without a loop it is the garbage collector that returns it
                self._next_look = asyncio.get_running_loop().call_later(self.overflow_lingers, self._close_surplus)

    def _close_surplus(self) -> None:
        """Close those above the pool's size that nobody has needed for a while; look again later if there are more."""
        self._next_look = None
        loop, needed_since = asyncio.get_running_loop(), time.monotonic() - self.overflow_lingers
        while len(self._idle) > self.size():
            if self._idle[0].info[_IDLE_SINCE] > needed_since:
                self._next_look = loop.call_later(self.overflow_lingers / 2, self._close_surplus)
                return
            entry = self._idle.popleft()
            self._dec_overflow()
            task = loop.create_task(greenlet_spawn(entry.close))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


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
        connect_args={
            "timeout": config.connect_timeout_seconds,
            "command_timeout": config.command_timeout_seconds,
        },
    )
    pool = engine.sync_engine.pool
    assert isinstance(pool, BoundedPool)  # noqa: S101  # for the type checker: as was said above
    pool.ping_after = 0 if config.pool_pre_ping else config.pool_ping_after_idle_seconds
    pool.attempt_ping_after = config.pool_ping_after_idle_seconds
    pool.ping_timeout = config.connect_timeout_seconds
    pool.overflow_lingers = config.pool_overflow_lingers_seconds
    event.listen(engine.sync_engine, "handle_error", _explain_outage)
    return engine


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
    if context.is_disconnect or is_outage(error):
        raise DatabaseUnavailable(f"the database gave no answer ({type(error).__name__})") from error
