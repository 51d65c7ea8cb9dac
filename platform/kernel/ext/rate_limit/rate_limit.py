"""How often a caller may ask: each route's own limit, and one for everything.

`limits` counts, in a sliding window (two counters for each caller: what is left of the last window, and this one).
It and Redis are imported where a limit is set.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cached_property
from ipaddress import IPv6Address, ip_address, ip_network
from math import floor
from typing import TYPE_CHECKING, Any, NamedTuple

from fastapi import Depends
from starlette._utils import get_route_path
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from kernel.auth.principal import principal_of
from kernel.ext.rate_limit.settings import RateLimitSettings, check_limit
from kernel.ext.store.store import SharedStore, StoreUnavailable
from kernel.modules.manifest import module_context
from kernel.web.context import request_context
from kernel.web.dispatch import WITHOUT_BODY, close_unread
from kernel.web.problems import RETRY_AFTER_SECONDS, Problem, TooManyRequests

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.aio.storage import SlidingWindowCounterSupport
    from redis.asyncio import Redis

    from kernel.ext.rate_limit.memory_counter import Counts


class Count(NamedTuple):
    """How a caller stands with a limit."""

    is_over: bool
    remaining: int
    # Until the window ends, or if they are over, until they may ask again.
    seconds: int


class Limits:
    """Counts callers in this process, and where there is a Redis that answers, in all of them together."""

    def __init__(self, settings: RateLimitSettings, store: SharedStore) -> None:
        self._store = store
        # The connections of the store, and what counts over them.
        self._shared: tuple[object, SlidingWindowCounterSupport] | None = None
        self._ipv6_prefix_length = settings.ipv6_prefix_length
        self._exempt = [ip_network(name, strict=False) for name in settings.exempt]

    async def check(self, connection: HTTPConnection, kind: str, name: str, items: "Sequence[RateLimitItem]") -> None:
        """Count a request, and say in its answer how its caller stands. Raises TooManyRequests."""
        caller = await self.caller(connection)
        if caller is None:
            return
        context = request_context(connection)
        headers, counted = context.response_headers, context.values.setdefault(Limits, set())
        for item in items:
            if (name, item) in counted:  # a router's limit, and the same again of its route
                continue
            counted.add((name, item))
            count = await self._count(item, f"{name}/{caller}")
            window, policy = item.get_expiry(), f'"{kind}-{item.get_expiry()}"'
            # draft-ietf-httpapi-ratelimit-headers-10
            headers.append((b"ratelimit-policy", f"{policy};q={item.amount};w={window}".encode()))
            headers.append((b"ratelimit", f"{policy};r={count.remaining};t={count.seconds}".encode()))
            if count.is_over:
                detail = f"At most {item.amount} requests in {window} seconds. Try again in {count.seconds} seconds."
                raise TooManyRequests(detail, headers={"Retry-After": str(count.seconds)})

    async def caller(self, connection: HTTPConnection) -> str | None:
        """Return who is counted: the principal, else the address; None for an exempt address."""
        host = (connection.scope.get("client") or ("",))[0]
        try:
            address = ip_address(host)
        except ValueError:  # a socket of this machine; or a proxy passes on what it was told: all of those are one
            address = None
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        if address is not None and any(address in network for network in self._exempt):
            return None
        who = f"address {address}"
        if isinstance(address, IPv6Address):
            who = f"address {ip_network((address, self._ipv6_prefix_length), strict=False)}"
        if any(name == b"authorization" for name, _ in connection.scope["headers"]):
            try:
                principal = await principal_of(connection)
            except Problem:  # a token that does not hold is no other caller: guessing would be free
                principal = None
            if principal is not None:
                who = f"principal {principal.key}"
        return hashlib.blake2b(who.encode(), digest_size=16).hexdigest()

    async def _count(self, item: "RateLimitItem", name: str) -> Count:
        """In this process first: what that refuses Redis need not hear of, and what Redis misses is not lost."""
        own = await hit(self._here, item, name)
        if own.is_over or not self._store.is_configured:
            return own
        try:
            count = await self._store.ask(lambda redis: hit(self._in_redis(redis), item, name))
        except StoreUnavailable:
            return own
        if count.is_over:
            await self._here.give_back(item.key_for(name), item.get_expiry())
        return count

    def _in_redis(self, redis: "Redis") -> "SlidingWindowCounterSupport":
        from limits.aio.storage import RedisStorage  # noqa: PLC0415

        pool: Any = redis.connection_pool  # the library's types know only text and numbers
        if self._shared is None or self._shared[0] is not pool:
            storage = RedisStorage("redis://", implementation="redispy", key_prefix="limits", connection_pool=pool)
            self._shared = (pool, storage)
        return self._shared[1]

    @cached_property
    def _here(self) -> "Counts":
        from kernel.ext.rate_limit.memory_counter import Counts  # noqa: PLC0415

        return Counts()


async def hit(storage: "SlidingWindowCounterSupport", item: "RateLimitItem", name: str) -> Count:
    """Count one request, unless it is one too many."""
    key, window, most = item.key_for(name), item.get_expiry(), item.amount
    is_counted = await storage.acquire_sliding_window_entry(key, most, window)
    before, before_ends, now, now_expires = await storage.get_sliding_window(key, window)
    used = floor(before * before_ends / window + now)
    # A counter is kept for a second window, in which less and less of it counts.
    seconds = now_expires - window
    if not is_counted and before and now < most:
        seconds = before_ends - (most - now) * window / before
    return Count(not is_counted, max(0, most - used) if is_counted else 0, max(0, floor(seconds)) + 1)


class Limited:
    """A dependency: see `limited`."""

    def __init__(self, limit: str) -> None:
        from limits import parse_many  # noqa: PLC0415

        self._items = parse_many(check_limit(limit))

    async def __call__(self, connection: HTTPConnection) -> None:
        """Asked by FastAPI."""
        module, route = module_context(connection).name, connection.scope["route"]
        handler = getattr(route.endpoint, "__qualname__", "")  # two routers may have the same path below themselves
        limits = request_context(connection).kernel.get(Limits)
        name = f"{module} {' '.join(sorted(getattr(route, 'methods', ())))} {route.path} {handler}"
        await limits.check(connection, "route", name, self._items)

    # FastAPI asks equal dependencies of a request once.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Limited) and other._items == self._items

    def __hash__(self) -> int:
        return hash(tuple(self._items))


def limited(limit: str) -> Any:
    """A dependency: at most so many requests of one caller: `dependencies=[limited("10/minute")]`.

    On a router, each of its routes counts on its own. Several limits: `10/second; 1000/day`. Raises ValueError.
    """
    return Depends(Limited(limit))


class Overall:
    """Pure ASGI: the limit over all requests, whether such a route exists or not."""

    def __init__(
        self, app: ASGIApp, limits: Limits, limit: str, free: Collection[str], internal: tuple[str, ...]
    ) -> None:
        """Not counted are the paths `free`. Below `internal` only refused calls (401) are counted."""
        from limits import parse_many  # noqa: PLC0415

        self._app = app
        self._limits = limits
        self._items = parse_many(limit)
        self._free = free
        self._internal = internal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        path = get_route_path(scope)
        if scope["type"] == "http" and path.startswith(self._internal):
            try:
                await self._app(scope, receive, send)
            except HTTPException as error:
                if error.status_code == 401:
                    await self._count(scope)
                raise
            return
        if path not in self._free:
            await self._count(scope)
        await self._app(scope, receive, send)

    async def _count(self, scope: Scope) -> None:
        await self._limits.check(HTTPConnection(scope), "overall", "overall", self._items)


class CallerShares:
    """Pure ASGI: holds each caller to a share of the requests and of the WebSockets that a process may have.

    Of requests only those that may have a body count: a caller can keep them in work for as long as it sends slowly.
    Without a share, one caller with slow uploads fills the process, and every other caller is answered 503.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, requests: int, websockets: int, free_below: tuple[str, ...]
    ) -> None:
        """`requests` and `websockets` are the shares. Nothing below `free_below` counts."""
        self._app = app
        self._limits = limits
        self._shares = {
            "http": (requests, f"You have {requests} requests with a body in work. Wait for one of them to end."),
            "websocket": (websockets, f"You have {websockets} WebSockets open. Close one of them."),
        }
        self._free_below = free_below
        self._taken: Counter[tuple[str, str]] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        caller = None
        if self._counts(scope):
            caller = await self._limits.caller(HTTPConnection(scope))
        if caller is None:
            await self._app(scope, receive, send)
            return
        share, detail = self._shares[kind]
        if self._taken[kind, caller] >= share:
            raise TooManyRequests(detail, headers={"Retry-After": RETRY_AFTER_SECONDS} | close_unread(scope))
        self._taken[kind, caller] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._taken[kind, caller] -= 1
            if not self._taken[kind, caller]:
                del self._taken[kind, caller]

    def _counts(self, scope: Scope) -> bool:
        if scope["type"] not in self._shares or (scope["type"] == "http" and scope["method"] in WITHOUT_BODY):
            return False
        return not get_route_path(scope).startswith(self._free_below)
