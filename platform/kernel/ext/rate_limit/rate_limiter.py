"""Count the requests of each caller.

The library `limits` counts in a sliding window: one counter for the current window and one for the last, of which the
part that is still inside the sliding window counts. The library and Redis are imported where a limit is set.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from ipaddress import IPv6Address, ip_address, ip_network
from math import floor
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from kernel.auth.principal import principal_of
from kernel.ext.rate_limit.settings import RateLimitSettings
from kernel.ext.store.store import SharedStore, StoreUnavailable
from kernel.web.context import request_context
from kernel.web.problems import Problem

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.aio.storage import SlidingWindowCounterSupport
    from redis.asyncio import Redis

    from kernel.ext.rate_limit.memory_counters import MemoryCounters


class LimitStatus(NamedTuple):
    """The result of counting a request."""

    is_over: bool
    remaining: int
    # Until the window ends; for a caller over the limit, until the next request is allowed.
    seconds: int


class RateLimiter:
    """Counts callers in this process and, where there is a Redis that answers, in all processes together."""

    def __init__(self, settings: RateLimitSettings, store: SharedStore) -> None:
        self._store = store
        # The connection pool of the store, and the counters that use it.
        self._shared: tuple[object, SlidingWindowCounterSupport] | None = None
        self._ipv6_prefix_length = settings.ipv6_prefix_length
        self._exempt = [ip_network(name, strict=False) for name in settings.exempt]

    async def check(self, connection: HTTPConnection, kind: str, name: str, items: "Sequence[RateLimitItem]") -> None:
        """Count a request, and add its caller's status to the response headers. Raises HTTPException."""
        caller = await self.caller(connection)
        if caller is None:
            return
        context = request_context(connection)
        headers, counted = context.response_headers, context.values.setdefault(RateLimiter, set())
        for item in items:
            if (name, item) in counted:  # a router and its route have the same limit
                continue
            counted.add((name, item))
            status = await self._count(item, f"{name}/{caller}")
            window, policy = item.get_expiry(), f'"{kind}-{item.get_expiry()}"'
            # draft-ietf-httpapi-ratelimit-headers-10
            headers.append((b"ratelimit-policy", f"{policy};q={item.amount};w={window}".encode()))
            headers.append((b"ratelimit", f"{policy};r={status.remaining};t={status.seconds}".encode()))
            if status.is_over:
                detail = f"At most {item.amount} requests in {window} seconds. Try again in {status.seconds} seconds."
                raise HTTPException(429, detail, {"Retry-After": str(status.seconds)})

    async def caller(self, connection: HTTPConnection) -> str | None:
        """Return the key of the caller: its principal, or else its address; None for an exempt address."""
        host = (connection.scope.get("client") or ("",))[0]
        try:
            address = ip_address(host)
        except ValueError:  # a Unix socket, or a proxy that passed on an invalid value: all of these are one caller
            address = None
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        if address is not None and any(address in network for network in self._exempt):
            return None
        caller = f"address {address}"
        if isinstance(address, IPv6Address):
            caller = f"address {ip_network((address, self._ipv6_prefix_length), strict=False)}"
        if any(name == b"authorization" for name, _ in connection.scope["headers"]):
            try:
                principal = await principal_of(connection)
            except Problem:  # counted by address: otherwise every guessed token would be a new caller
                principal = None
            if principal is not None:
                caller = f"principal {principal.key}"
        return hashlib.blake2b(caller.encode(), digest_size=16).hexdigest()

    async def _count(self, item: "RateLimitItem", name: str) -> LimitStatus:
        """Count in this process first: Redis need not know what it refuses, and an outage of Redis loses no counts."""
        own = await count_request(self._memory, item, name)
        if own.is_over or not self._store.is_configured:
            return own
        try:
            status = await self._store.run(lambda redis: count_request(self._in_redis(redis), item, name))
        except StoreUnavailable:
            return own
        if status.is_over:
            await self._memory.take_back(item.key_for(name), item.get_expiry())
        return status

    def _in_redis(self, redis: "Redis") -> "SlidingWindowCounterSupport":
        from limits.aio.storage import RedisStorage  # noqa: PLC0415

        pool: Any = redis.connection_pool  # the library's types allow only text and numbers
        if self._shared is None or self._shared[0] is not pool:
            storage = RedisStorage("redis://", implementation="redispy", key_prefix="limits", connection_pool=pool)
            self._shared = (pool, storage)
        return self._shared[1]

    @cached_property
    def _memory(self) -> "MemoryCounters":
        from kernel.ext.rate_limit.memory_counters import MemoryCounters  # noqa: PLC0415

        return MemoryCounters()


async def count_request(storage: "SlidingWindowCounterSupport", item: "RateLimitItem", name: str) -> LimitStatus:
    """Count one request, unless it is over the limit."""
    key, window, most = item.key_for(name), item.get_expiry(), item.amount
    is_counted = await storage.acquire_sliding_window_entry(key, most, window)
    before, before_ends, now, now_expires = await storage.get_sliding_window(key, window)
    used = floor(before * before_ends / window + now)
    # A counter is kept for a second window, in which a decreasing part of it counts.
    seconds = now_expires - window
    if not is_counted and before and now < most:
        seconds = before_ends - (most - now) * window / before
    return LimitStatus(not is_counted, max(0, most - used) if is_counted else 0, max(0, floor(seconds)) + 1)
