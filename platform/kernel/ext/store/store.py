"""Store data of several requests for a limited time: in a Redis that all processes share, or in the memory of one."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from kernel.ext.store.settings import StoreSettings

if TYPE_CHECKING:
    from redis.asyncio import Redis

_log = structlog.get_logger("kernel.store")

Result = TypeVar("Result")

_CONNECTIONS = 32
# After a failure Redis is not asked for this time, so that an outage delays one request, not every one.
_PAUSE_SECONDS = 1
# The memory of an entry besides its key and value (measured: two tuples, a float, a node of the dictionary).
_ENTRY_BYTES = 250

# How many seconds the current request has waited for the store.
_waited: ContextVar[list[float] | None] = ContextVar("waited_for_store", default=None)


class StoreUnavailable(Exception):
    """Redis did not answer in time. The caller continues without it."""


class SharedStore:
    """The Redis at STORE_URL. The first command opens the connection."""

    def __init__(self, settings: StoreSettings) -> None:
        self._url = None if settings.url is None else settings.url.get_secret_value()
        self._timeout = settings.timeout_seconds
        self._redis: Redis | None = None
        self._paused_until = 0.0
        self._is_down = False

    @property
    def is_configured(self) -> bool:
        return self._url is not None

    async def run(self, command: Callable[["Redis"], Awaitable[Result]]) -> Result:
        """Run a command and return its result. Raises StoreUnavailable.

        All commands of one request together take at most STORE_TIMEOUT_SECONDS.
        """
        began_at, waited = time.monotonic(), _waited.get() or [0.0]
        left = self._timeout - waited[0]
        if began_at < self._paused_until or left <= 0:
            raise StoreUnavailable
        from redis.exceptions import RedisError  # noqa: PLC0415  # imported only where STORE_URL is set

        self._redis = self._redis or self._connected()
        try:
            async with asyncio.timeout(left):
                result = await command(self._redis)
        except (RedisError, OSError, TimeoutError) as error:
            self._paused_until = time.monotonic() + _PAUSE_SECONDS
            if not self._is_down:
                _log.warning("the shared store does not answer, going on without it", reason=type(error).__name__)
            self._is_down = True
            raise StoreUnavailable from error
        finally:
            waited[0] += time.monotonic() - began_at
        if self._is_down:
            _log.info("the shared store answers again")
            self._is_down = False
        return result

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Return `app` with a sum of the time that each request waits for the store."""

        async def with_deadline(scope: Scope, receive: Receive, send: Send) -> None:
            _waited.set([0.0])
            await app(scope, receive, send)

        return with_deadline

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values of these keys. Raises StoreUnavailable."""
        values: list[Any] = await self.run(lambda redis: redis.mget(keys))
        return values

    async def put(self, values: Mapping[str, bytes], seconds: float, *, if_new: bool = False) -> None:
        """Keep values for this time; with `if_new` only where the key has none.

        Raises StoreUnavailable; some of the values may be kept then.
        """
        milliseconds = max(1, int(seconds * 1000))

        async def send(redis: "Redis") -> None:
            async with redis.pipeline(transaction=False) as together:
                for key, value in values.items():
                    together.set(key, value, px=milliseconds, nx=if_new)
                await together.execute()

        await self.run(send)

    async def close(self) -> None:
        """Close every connection. The store can be used again afterwards."""
        redis, self._redis = self._redis, None
        if redis is not None:
            await redis.aclose()
            await redis.connection_pool.aclose()

    def _connected(self) -> "Redis":
        from redis.asyncio import BlockingConnectionPool, Redis  # noqa: PLC0415
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.maint_notifications import MaintNotificationsConfig  # noqa: PLC0415

        options: dict[str, Any] = {"socket_timeout": self._timeout, "socket_connect_timeout": self._timeout}
        # Each of these would send one more command with every connect.
        options |= {"driver_info": None, "maint_notifications_config": MaintNotificationsConfig(enabled=False)}
        pool = BlockingConnectionPool.from_url(
            str(self._url),
            max_connections=_CONNECTIONS,
            timeout=self._timeout,
            retry=Retry(NoBackoff(), 1),  # For a connection that a restart has closed.
            **options,
        )
        return Redis(connection_pool=pool)


class MemoryStore:
    """The same store in this process, of limited size: the least recently used entries are dropped first."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._entries: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values of these keys."""
        return [self._value(key) for key in keys]

    async def put(self, values: Mapping[str, bytes], seconds: float, *, if_new: bool = False) -> None:
        """Keep values for this time; with `if_new` only where the key has none."""
        for key, value in values.items():
            if if_new and self._value(key) is not None:
                continue
            self._drop(key)
            self._entries[key] = (time.monotonic() + seconds, value)
            self._bytes += _size(key, value)
        while self._bytes > self._most_bytes:
            self._drop(next(iter(self._entries)))

    def _value(self, key: str) -> bytes | None:
        found = self._entries.get(key)
        if found is None:
            return None
        if found[0] <= time.monotonic():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return found[1]

    def _drop(self, key: str) -> None:
        found = self._entries.pop(key, None)
        if found is not None:
            self._bytes -= _size(key, found[1])


def _size(key: str, value: bytes) -> int:
    return len(key) + len(value) + _ENTRY_BYTES
