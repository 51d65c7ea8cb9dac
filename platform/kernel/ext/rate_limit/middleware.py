"""Limits over all routes: how many requests a caller may send, and how many it may have open at a time."""

from collections import Counter
from collections.abc import Collection

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from kernel.ext.rate_limit.rate_limiter import RateLimiter
from kernel.web.context import route_path
from kernel.web.dispatch import WITHOUT_BODY, close_unread
from kernel.web.problems import RETRY_AFTER_SECONDS


class GlobalRateLimit:
    """Limits the requests of each caller over all paths, also those without a route. Pure ASGI."""

    def __init__(
        self, app: ASGIApp, limiter: RateLimiter, limit: str, free: Collection[str], mounts: tuple[str, ...]
    ) -> None:
        """Do not count the paths `free`, and below `mounts` count only refused calls (401)."""
        from limits import parse_many  # noqa: PLC0415

        self._app = app
        self._limiter = limiter
        self._items = parse_many(limit)
        self._free = free
        self._mounts = mounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        path = route_path(scope)
        if scope["type"] == "http" and path.startswith(self._mounts):
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
        await self._limiter.check(HTTPConnection(scope), "overall", "overall", self._items)


class CallerShares:
    """Limits each caller to a share of the requests and WebSockets that a process handles at a time. Pure ASGI.

    Only requests with a body count: a client can keep them open by sending slowly. Without a share one client with
    slow uploads uses up the process, and every other client gets 503.
    """

    def __init__(
        self, app: ASGIApp, limiter: RateLimiter, requests: int, websockets: int, free_below: tuple[str, ...]
    ) -> None:
        """Allow each caller `requests` and `websockets`. Paths that begin with one of `free_below` do not count."""
        self._app = app
        self._limiter = limiter
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
            caller = await self._limiter.caller(HTTPConnection(scope))
        if caller is None:
            await self._app(scope, receive, send)
            return
        share, detail = self._shares[kind]
        if self._taken[kind, caller] >= share:
            raise HTTPException(429, detail, {"Retry-After": RETRY_AFTER_SECONDS} | close_unread(scope))
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
        return not route_path(scope).startswith(self._free_below)
