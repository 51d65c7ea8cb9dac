"""Count requests and watch the event loop: a dictionary of numbers, which each scrape reads."""

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.types import Scope

from kernel.web.context import find_context

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds; those that OpenTelemetry recommends for http.server.request.duration, without its odd ones."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WEBSOCKET"})
_LOOK_SECONDS = 0.5


class Durations:
    """A histogram: how many requests fell into each bucket, and the sum of their durations."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one request."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


class Meter:
    """The counters of one process."""

    def __init__(self) -> None:
        # By module, route below the module's prefix (None if no route matched), method and status.
        self.requests: dict[tuple[str, str | None, str, int], Durations] = {}
        self.in_flight = 0
        self.websockets = 0
        # By how many seconds the event loop was late: the maximum since the last scrape.
        self.lag = 0.0

    def started(self, scope: Scope) -> None:
        """Count a request or a WebSocket that has come in."""
        if scope["type"] == "http":
            self.in_flight += 1
        else:
            self.websockets += 1

    def ended(self, scope: Scope, status: int, seconds: float) -> None:
        """Count one that has ended."""
        if scope["type"] == "http":
            self.in_flight -= 1
        else:
            self.websockets -= 1
        self.count(scope, status, seconds)

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a response. Unknown paths and methods, which callers choose, share one row."""
        context, route = find_context(scope), scope.get("route")
        module = None if context is None else context.module
        method = scope["method"]
        key = (
            module.name if module is not None else "",
            getattr(route, "path", None),
            method if method in _METHODS else "OTHER",
            status,
        )
        durations = self.requests.get(key)
        if durations is None:
            durations = self.requests[key] = Durations()
        durations.add(seconds)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Measure every half second how late the event loop is."""
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LOOK_SECONDS
            await asyncio.sleep(_LOOK_SECONDS)
            self.lag = max(self.lag, loop.time() - due)
