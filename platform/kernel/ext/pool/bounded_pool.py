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
# In what the pool remembers of a connection, which is empty for every new one: the role that it has taken.
_ROLE = "kernel.role"
# How long a check waits in line. Most of its second is for the answer, which is late where all are busy.
_CHECK_WAITS_SECONDS = 0.25
# How long a stop waits for connections that were given up while they were busy.
_CLOSING_SECONDS = 5

# SQLAlchemy logs each use of a connection under the class of the pool.
logging.getLogger(__name__).setLevel(logging.WARNING)

Result = TypeVar("Result")


class BoundedPool(ConnectionPool):
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
    ping_after: float | None
    attempt_ping_after: float | None = None
    ping_timeout: float = 1
    # How long those above the pool's size are kept, in seconds.
    overflow_lingers: float = 30

    def __init__(self, creator: Any, pool_size: int = 5, max_overflow: int = 10, **options: Any) -> None:
        # It pings itself, and knows when that is needless.
        self.ping_after = 0 if options.pop("pre_ping", False) else None
        super().__init__(creator, pool_size, max_overflow, **options)
        self._idle: deque[ConnectionPoolEntry] = self._pool.queue  # type: ignore[attr-defined]  # the one used last on the right
        # SQLAlchemy's own queue lets whoever comes first take what was meant for one who waits; under load some wait
        # for ever. asyncio's semaphore hands on in order.
        self._places = FairSemaphore(pool_size + max_overflow, self._timeout, PoolExhausted, ALL_IN_USE)
        self._chosen: ConnectionPoolEntry | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._quotas: dict[ConnectionPoolEntry, ModuleQuota] = {}  # in whose name each is in use
        # Since when each is in use, the oldest first; of those with a watchdog.
        self._in_use: dict[ConnectionPoolEntry, float] = {}
        self._connecting: set[asyncio.Timeout] = set()
        self._watchdog: ConnectionWatchdog | None = None

    def watch(self) -> None:
        """Give up what is under way when the database stops answering, instead of waiting for each command."""
        oldest = lambda: next(iter(self._in_use.values()), None)  # noqa: E731  # in one line
        self._watchdog = ConnectionWatchdog(self._connect_aside, oldest, self._give_up)

    async def _connect_aside(self) -> None:
        """Make a connection beside those of the pool, and end it. Raises what the driver raises."""
        connection = await greenlet_spawn(self._invoke_creator, None)
        connection.terminate()

    def recreate(self) -> "BoundedPool":
        """Return an empty pool like this one; SQLAlchemy goes on with it after `dispose`."""
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
        """How many connections are in use and idle, how many there may be, and how many wait for one."""
        idle = sum(one.dbapi_connection is not None for one in self._idle)
        return self._places.in_use, idle, self._places.limit, self._places.waiting

    async def check_aside(self) -> bool:
        """Ask the database without a connection of the pool, if that is full.

        Raises DatabaseUnavailable, or PoolExhausted if the database is well and no caller gets a connection.
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
        if self._watchdog is not None:  # SQLite has no server that could be silent
            try:
                await self._connect_aside()
            except NO_CONNECTION as error:
                if code_of(error) != asyncpg.TooManyConnectionsError.sqlstate:  # which is an answer
                    raise unreachable(error) from error
        if not gets_one:
            raise PoolExhausted(ALL_IN_USE)
        return True

    def connect(self) -> PoolProxiedConnection:
        return self.proxied(await_only(self._take(self.ping_after, None)))

    def connect_for(self, quota: ModuleQuota) -> PoolProxiedConnection:
        """As `connect`, in a module's name. Raises also PoolShareExhausted."""
        return self.proxied(await_only(self._take(self.ping_after, quota)))

    def proxied(self, entry: ConnectionPoolEntry) -> PoolProxiedConnection:
        """An entry as SQLAlchemy's connections take it. Closing that gives it back."""
        self._chosen = entry
        # SQLAlchemy would look at its age once more and replace it, with the transaction and the role that it has.
        started, entry.starttime = entry.starttime, math.inf  # type: ignore[attr-defined]  # of SQLAlchemy's entries
        try:
            return super().connect()
        finally:
            entry.starttime = started  # type: ignore[attr-defined]

    async def attempt(
        self, work: Callable[[ConnectionPoolEntry], Awaitable[Result]], quota: ModuleQuota | None = None
    ) -> tuple[ConnectionPoolEntry, Result]:
        """Do something with a connection, and again with a new one if the first was lost before that had an effect.

        So a request never sees a connection that died while it was idle, and no connection is pinged beforehand.
        """
        for is_last in (False, True):
            entry = await self._take(self.attempt_ping_after, quota)
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
        """A connection that has this role."""
        entry = await self._take_any(role, ping_after)
        if entry.info.get(_ROLE) != role:
            try:
                await self._set_role(entry, role)
            except LostConnection:  # it died while it was idle: a new one, as in `attempt`
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
                        try:  # to connect needs SQLAlchemy's greenlet
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
        """The idle connection to use: the one used last of those with this role; None: a new one.

        Without one the pool grows up to its size, so that modules that take turns do not change roles at each.
        """
        if self._idle[-1].info.get(_ROLE) == role:
            return self._idle.pop()
        for entry in reversed(self._idle):
            if entry.info.get(_ROLE) == role:
                self._idle.remove(entry)
                return entry
        return None if self._overflow < 0 else self._idle.popleft()

    async def _set_role(self, entry: ConnectionPoolEntry, role: str | None) -> None:
        """One round trip, before any transaction: a rollback would undo it. Raises LostConnection, RoleError."""
        driver: Any = entry.driver_connection
        try:
            await driver.execute("RESET ROLE" if role is None else f"SET ROLE {quoted(role)}")
        except BaseException as error:
            self.drop(entry, error)
            if not isinstance(error, Exception):
                raise
            if isinstance(error, asyncpg.PostgresError) and not is_outage(error):
                raise RoleError(f"the role {role} cannot be taken ({error}): run `kernel roles --apply`") from error
            self._invalidate_time = time.time()  # those of its age are dead, too
            raise LostConnection(f"the database gave no answer ({type(error).__name__})") from error
        entry.info[_ROLE] = role

    def _is_open(self, entry: Any) -> bool:
        """Return whether the entry has a connection that SQLAlchemy would not replace."""
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
                await driver.execute("SELECT 1")  # asyncpg's `execute` fails on an empty query
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
            self._inc_overflow()  # there is room: we have a turn
            return self._create_connection()
        except BaseException:
            self._dec_overflow()
            self._places.release()
            raise

    def _close_connection(self, connection: Any, *, terminate: bool = False) -> None:
        driver = connection.driver_connection
        if terminate and hasattr(driver, "stop"):
            # aiosqlite's thread ends after its statement. SQLAlchemy would wait for it here, and for ever if a second
            # cancellation (anyio repeats them) stops the thread meanwhile.
            try:
                self._in_background(partial(_interrupt, driver))
            except RuntimeError:  # there is no loop any more
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
            with suppress(RuntimeError):  # without a loop it is the garbage collector that returns it
                self._next_look = asyncio.get_running_loop().call_later(self.overflow_lingers, self._close_surplus)

    def _close_surplus(self) -> None:
        """Close the connections above the pool's size that were idle for a while; look again if more are left."""
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
    """Break off aiosqlite's statement, whose caller has gone, and close the connection."""
    with suppress(ValueError):  # it is closed already
        await driver.interrupt()
    await driver.close()
