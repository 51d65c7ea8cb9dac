"""The pool of connections that all modules of one database share."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util import await_only, greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet
from sqlalchemy.util.queue import Queue

from kernel.database.engines import ALL_IN_USE, NO_CONNECTION, ConnectionPool, unreachable
from kernel.database.errors import DatabaseUnavailable, PoolExhausted, code_of, is_outage
from kernel.database.server_session import quoted
from kernel.ext.pool.errors import LostConnection, RoleError
from kernel.ext.pool.quota import FairSemaphore, ModuleQuota
from kernel.ext.pool.watchdog import ConnectionWatchdog

_IDLE_SINCE = "kernel.idle_since"
# The key in the pool's record of a connection for its role; a new connection has none.
_ROLE = "kernel.role"
# The seconds that a check waits for a turn. Most of its second is for the answer, which is late if all are busy.
_CHECK_WAITS_SECONDS = 0.25
# The seconds that a stop waits for abandoned connections that were busy.
_CLOSING_SECONDS = 5

# SQLAlchemy logs each use of a connection under the class of the pool.
logging.getLogger(__name__).setLevel(logging.WARNING)

Result = TypeVar("Result")


class BoundedPool(ConnectionPool):
    """A pool that hands out connections in the order of the requests for them.

    SQLAlchemy takes connections through `connect`, inside a greenlet; `attempt` is for callers without one. Every
    failure to get a connection raises DatabaseUnavailable. While connecting, asyncpg raises OSError, TimeoutError or
    errors of its own, none of which SQLAlchemy wraps.

    An entry is a place in the pool with its current connection. SQLAlchemy would wrap the connection again for each
    use.

    Connections above the pool's size stay open until they have been idle for a while. SQLAlchemy closes each one when
    it is returned, even if another request waits; under a load above the size, opening connections would then cost more
    than the statements.
    """

    # Only its deque is used. No caller waits in it, and it always has room.
    _queue_class = Queue  # type: ignore[assignment]  # as the base's, which is no deque

    # Seconds after which an idle connection must answer a ping, before SQLAlchemy uses it and before a statement on the
    # driver does, and the seconds for the answer. None: never.
    ping_after: float | None
    attempt_ping_after: float | None = None
    ping_timeout: float = 1
    # Seconds for which connections above the pool's size are kept.
    overflow_lingers: float = 30

    def __init__(self, creator: Any, pool_size: int = 5, max_overflow: int = 10, **options: Any) -> None:
        # This class sends the pings itself, and skips unnecessary ones.
        self.ping_after = 0 if options.pop("pre_ping", False) else None
        super().__init__(creator, pool_size, max_overflow, **options)
        self._idle: deque[ConnectionPoolEntry] = self._pool.queue  # type: ignore[attr-defined]  # the one used last on the right
        # SQLAlchemy's own queue lets a new caller take a connection that was meant for a waiting one; under load some
        # callers wait for ever. asyncio's semaphore keeps the order.
        self._places = FairSemaphore(pool_size + max_overflow, self._timeout, PoolExhausted, ALL_IN_USE)
        self._chosen: ConnectionPoolEntry | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._quotas: dict[ConnectionPoolEntry, ModuleQuota] = {}  # The module that uses each connection.
        # The start of each use, the oldest first, for the watchdog.
        self._in_use: dict[ConnectionPoolEntry, float] = {}
        self._connecting: set[asyncio.Timeout] = set()
        self._watchdog: ConnectionWatchdog | None = None

    def watch(self) -> None:
        """Abandon work in progress when the database stops answering, instead of waiting for each command."""
        oldest = lambda: next(iter(self._in_use.values()), None)  # noqa: E731  # in one line
        self._watchdog = ConnectionWatchdog(self._connect_aside, oldest, self._give_up)

    async def _connect_aside(self) -> None:
        """Open a connection outside the pool, and close it. Raises the driver's errors."""
        connection = await greenlet_spawn(self._invoke_creator, None)
        connection.terminate()

    def recreate(self) -> "BoundedPool":
        """Return an empty pool like this one, which SQLAlchemy uses after `dispose`."""
        fresh = super().recreate()
        assert isinstance(fresh, BoundedPool)  # noqa: S101  # for the type checker
        for name in ("ping_after", "attempt_ping_after", "ping_timeout", "overflow_lingers"):
            setattr(fresh, name, getattr(self, name))
        if self._watchdog is not None:
            fresh.watch()
        return fresh

    def dispose(self) -> None:
        if self._watchdog is not None:
            self._watchdog.stop()
        super().dispose()
        if self._closing and in_greenlet():
            await_only(asyncio.wait(self._closing, timeout=_CLOSING_SECONDS))

    def _give_up(self, since: float) -> bool:
        if any(one.dbapi_connection is not None and one.info.get(_IDLE_SINCE, 0) > since for one in self._idle):
            return False
        for entry in self._in_use:
            driver: Any = entry.driver_connection
            if driver is not None:
                driver.terminate()
        for attempt in self._connecting:
            attempt.reschedule(0)
        return True

    def usage(self) -> tuple[int, int, int, int]:
        """Return the connections in use and idle, the limit, and the callers that wait."""
        idle = sum(one.dbapi_connection is not None for one in self._idle)
        return self._places.in_use, idle, self._places.limit, self._places.waiting

    async def check_aside(self) -> bool:
        """Ask the database on a connection outside the pool, if the pool is full.

        Raises DatabaseUnavailable, or PoolExhausted if the database answers and no caller gets a connection.
        """
        if not self._places.locked():
            return False
        try:
            async with asyncio.timeout(_CHECK_WAITS_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            gets_one = False
        else:
            gets_one = True
            self._places.release()
        if self._watchdog is not None:  # SQLite has no server that could be silent.
            try:
                await self._connect_aside()
            except NO_CONNECTION as error:
                if code_of(error) != asyncpg.TooManyConnectionsError.sqlstate:  # An error is an answer.
                    raise unreachable(error) from error
        if not gets_one:
            raise PoolExhausted(ALL_IN_USE)
        return True

    def connect(self) -> PoolProxiedConnection:
        return self.proxied(await_only(self._take(self.ping_after, None)))

    def connect_for(self, quota: ModuleQuota) -> PoolProxiedConnection:
        """Return a connection as `connect` does, for a module. Also raises PoolShareExhausted."""
        return self.proxied(await_only(self._take(self.ping_after, quota)))

    def proxied(self, entry: ConnectionPoolEntry) -> PoolProxiedConnection:
        """Return an entry as SQLAlchemy's connections use it. Closing that returns it to the pool."""
        self._chosen = entry
        # SQLAlchemy would check its age again and replace it, with its transaction and role.
        started, entry.starttime = entry.starttime, math.inf  # type: ignore[attr-defined]  # of SQLAlchemy's entries
        try:
            return super().connect()
        finally:
            entry.starttime = started  # type: ignore[attr-defined]

    async def attempt(
        self, work: Callable[[ConnectionPoolEntry], Awaitable[Result]], quota: ModuleQuota | None = None
    ) -> tuple[ConnectionPoolEntry, Result]:
        """Use a connection, and repeat that with a new one if the first was lost before it had an effect.

        So a request never sees a connection that died while it was idle, and no connection is pinged beforehand.
        """
        for is_last in (False, True):
            entry = await self._take(self.attempt_ping_after, quota)
            try:
                return entry, await work(entry)
            except LostConnection as error:
                self._invalidate_time = time.time()  # Connections of its age are lost too: SQLAlchemy replaces them.
                self.drop(entry, error)
                if is_last:
                    raise
            except BaseException as error:
                if isinstance(error, DatabaseUnavailable) or not isinstance(error, Exception):
                    # Late or cancelled: the next user must not read the answer to this statement.
                    self.drop(entry, error)
                else:
                    self.give_back(entry)
                raise
        raise AssertionError("unreachable")

    def give_back(self, entry: ConnectionPoolEntry) -> None:
        """End the use of an entry from `attempt`."""
        self._do_return_conn(entry)

    def drop(self, entry: ConnectionPoolEntry, error: BaseException | None = None) -> None:
        """Return an entry whose connection cannot be used again."""
        entry.invalidate(error)
        self._do_return_conn(entry)

    async def _take(self, ping_after: float | None, quota: ModuleQuota | None) -> ConnectionPoolEntry:
        if quota is None:
            return await self._take_with(None, ping_after)
        if quota.share is not None:
            await quota.share.take()
        try:
            entry = await self._take_with(quota.role, ping_after)
        except BaseException:
            if quota.share is not None:
                quota.share.release()
            raise
        self._quotas[entry] = quota
        return entry

    async def _take_with(self, role: str | None, ping_after: float | None) -> ConnectionPoolEntry:
        """Take a connection that has this role."""
        entry = await self._take_any(role, ping_after)
        if entry.info.get(_ROLE) != role:
            try:
                await self._set_role(entry, role)
            except LostConnection:  # It died while it was idle: take a new one, as in `attempt`.
                entry = await self._take_any(role, ping_after)
                await self._set_role(entry, role)
        return entry

    async def _take_any(self, role: str | None, ping_after: float | None) -> ConnectionPoolEntry:
        while True:
            watchdog = self._watchdog
            await self._places.take()
            if watchdog is not None and watchdog.is_silent:
                self._places.release()
                raise DatabaseUnavailable("the database has stopped answering, and is asked until it does again")
            entry = self._pop(role) if self._idle else None
            if entry is None or not self._is_open(entry):
                try:
                    async with asyncio.timeout(None) as attempt:
                        self._connecting.add(attempt)
                        try:  # Connecting needs SQLAlchemy's greenlet.
                            entry = await greenlet_spawn(self._opened, entry)
                        finally:
                            self._connecting.discard(attempt)
                except NO_CONNECTION as error:
                    if watchdog is not None and isinstance(error, TimeoutError):
                        watchdog.doubt()
                    raise unreachable(error) from error
                ping_after = None
            if watchdog is not None:
                self._in_use[entry] = time.monotonic()
                watchdog.follow()
            if ping_after is None or await self._is_alive(entry, ping_after):
                return entry
            self.drop(entry)

    def _pop(self, role: str | None) -> ConnectionPoolEntry | None:
        """Return the most recently used idle connection with this role, or None for a new one.

        Without such a connection the pool grows up to its size, so that modules in turn do not change the role at each
        use.
        """
        if self._idle[-1].info.get(_ROLE) == role:
            return self._idle.pop()
        for entry in reversed(self._idle):
            if entry.info.get(_ROLE) == role:
                self._idle.remove(entry)
                return entry
        return None if self._overflow < 0 else self._idle.popleft()

    async def _set_role(self, entry: ConnectionPoolEntry, role: str | None) -> None:
        """Set the role in one round trip, before any transaction, because a rollback would undo it.

        Raises LostConnection and RoleError.
        """
        driver: Any = entry.driver_connection
        try:
            await driver.execute("RESET ROLE" if role is None else f"SET ROLE {quoted(role)}")
        except BaseException as error:
            self.drop(entry, error)
            if not isinstance(error, Exception):
                raise
            if isinstance(error, asyncpg.PostgresError) and not is_outage(error):
                raise RoleError(f"the role {role} cannot be taken ({error}): run `kernel roles --apply`") from error
            self._invalidate_time = time.time()  # Connections of its age are lost too.
            raise LostConnection(f"the database gave no answer ({type(error).__name__})") from error
        entry.info[_ROLE] = role

    def _is_open(self, entry: Any) -> bool:
        """Return whether the entry has a connection that SQLAlchemy would not replace."""
        if entry.dbapi_connection is None or entry.starttime < self._invalidate_time:
            return False
        return self._recycle < 0 or time.time() - entry.starttime <= self._recycle

    def _opened(self, entry: Any) -> ConnectionPoolEntry:
        """Return the entry, or a new one, with an open connection."""
        if entry is None:
            entry = self._do_get()
        try:
            entry.get_connection()
        except BaseException as error:
            self.drop(entry, error)
            raise
        return entry  # type: ignore[no-any-return]  # as it came

    async def _is_alive(self, entry: ConnectionPoolEntry, ping_after: float) -> bool:
        """Return whether the driver knows of no end and, after a long pause, the server still answers.

        The driver notices a proper end of a connection, but not a firewall that drops packets.
        """
        driver: Any = entry.driver_connection
        if driver.is_closed():
            return False
        if time.monotonic() - entry.info.get(_IDLE_SINCE, float("inf")) < ping_after:
            return True
        try:
            async with asyncio.timeout(self.ping_timeout):
                await driver.execute("SELECT 1")  # asyncpg's `execute` fails on an empty query.
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
            self._inc_overflow()  # There is room, because this caller has a turn.
            return self._create_connection()
        except BaseException:
            self._dec_overflow()
            self._places.release()
            raise

    def _close_connection(self, connection: Any, *, terminate: bool = False) -> None:
        driver = connection.driver_connection
        if terminate and hasattr(driver, "stop"):
            # aiosqlite's thread ends after its statement. SQLAlchemy would wait for it here, and for ever if a second
            # cancellation (anyio repeats them) stops the thread in the meantime.
            try:
                self._in_background(partial(_interrupt, driver))
            except RuntimeError:  # The event loop has ended.
                driver.stop()
        else:
            super()._close_connection(connection, terminate=terminate)

    def _in_background(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(work())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if self._quotas and (quota := self._quotas.pop(record, None)) is not None and quota.share is not None:
            quota.share.release()
        if self._in_use:
            self._in_use.pop(record, None)
        record.info[_IDLE_SINCE] = time.monotonic()
        self._idle.append(record)
        self._places.release()
        if self._next_look is None and len(self._idle) > self.size():
            with suppress(RuntimeError):  # Without an event loop, the garbage collector returns it.
                self._next_look = asyncio.get_running_loop().call_later(self.overflow_lingers, self._close_surplus)

    def _close_surplus(self) -> None:
        """Close connections above the pool's size that have been idle for a while; check again if more remain."""
        self._next_look = None
        loop, needed_since = asyncio.get_running_loop(), time.monotonic() - self.overflow_lingers
        while len(self._idle) > self.size():
            if self._idle[0].info[_IDLE_SINCE] > needed_since:
                self._next_look = loop.call_later(self.overflow_lingers / 2, self._close_surplus)
                return
            entry = self._idle.popleft()
            self._dec_overflow()
            self._in_background(partial(greenlet_spawn, entry.close))


async def _interrupt(driver: Any) -> None:
    """Interrupt aiosqlite's statement after its caller was cancelled, and close the connection."""
    with suppress(ValueError):  # It is already closed.
        await driver.interrupt()
    await driver.close()
