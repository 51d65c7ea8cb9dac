"""One pool of outgoing HTTP connections for all modules, bounded in number and time."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from functools import cache, partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Self

import httpx2

from kernel.running import OnClassToo
from kernel.settings import HttpClientSettings

# Statuses of an upstream, or of a proxy before it, that is busy, down or late.
OUTAGES = frozenset({429, 502, 503, 504})

Send = Callable[[], Awaitable[httpx2.Response]]
Around = Callable[[httpx2.Request, Send], Awaitable[httpx2.Response]]
Before = Callable[[str], Awaitable[None]]

# The client raises this if an upstream does not respond.
UpstreamFailed = httpx2.TransportError


class CircuitOpen(UpstreamFailed):
    """The upstream has failed so often that it gets no call for a while (extension `http_resilience`)."""


def is_outage(error: BaseException) -> bool:
    """Return whether an upstream cannot be reached, does not answer in time, or answers with a status in OUTAGES."""
    if isinstance(error, httpx2.HTTPStatusError):
        return error.response.status_code in OUTAGES
    return isinstance(error, httpx2.TimeoutException | httpx2.NetworkError | CircuitOpen)


def too_late(request: httpx2.Request) -> httpx2.ReadTimeout:
    """Return the error of a call that has reached its deadline."""
    seconds = request.extensions["total_timeout"]
    message = f"{request.method} {request.url.host}: no complete answer within {seconds:g} s"
    return httpx2.ReadTimeout(message, request=request)


@cache
def _system_context(*, http2: bool) -> ssl.SSLContext:  # a key of the cache
    """Return the context with the system's certificates. Reading them takes 20 ms, so applications share it.

    There is one with and one without HTTP/2: httpcore writes the protocols that it offers into the context.
    """
    return httpx2.create_ssl_context(trust_env=False)


class HttpxRestClientPool:
    """The application's HTTP client. Open while the application runs: `async with pool:`.

    An extension sets the attributes below before the pool is opened.
    """

    def __init__(self, settings: HttpClientSettings, before: Before | None = None) -> None:
        """`before` is told the method and host of each call beforehand."""
        self._settings = settings
        self._before = before
        self.http2 = False
        # Each call, with all its attempts, goes through it.
        self.around: Around | None = None
        # Each wraps a transport, inside the deadline of a call; the first is the innermost.
        self.transports: list[Callable[[httpx2.AsyncBaseTransport], httpx2.AsyncBaseTransport]] = []
        # The connections of the open pool.
        self.connections: httpx2.AsyncHTTPTransport | None = None
        self._client: httpx2.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        """Open the pool. No connection is made before the first call. Raises OSError for an unreadable `ca_file`."""
        settings = self._settings
        limits = httpx2.Limits(
            max_connections=settings.max_connections,
            max_keepalive_connections=settings.max_keepalive_connections,
            keepalive_expiry=settings.keepalive_expiry_seconds,
        )
        context = _system_context(http2=self.http2)
        if settings.ca_file is not None:
            context = httpx2.create_ssl_context(trust_env=False)
            context.load_verify_locations(settings.ca_file)
        # On the transport: a client that is given one ignores its own verify, limits and http2.
        self.connections = httpx2.AsyncHTTPTransport(verify=context, trust_env=False, http2=self.http2, limits=limits)
        transport: httpx2.AsyncBaseTransport = self.connections
        for wrap in self.transports:
            transport = wrap(transport)
        self._client = _Client(
            total_timeout_seconds=settings.total_timeout_seconds,
            around=self.around,
            before=self._before,
            transport=transport,
            timeout=httpx2.Timeout(
                connect=settings.connect_timeout_seconds,
                read=settings.read_timeout_seconds,
                write=settings.write_timeout_seconds,
                pool=settings.pool_timeout_seconds,
            ),
            # All callers share this client: a cookie that it kept for one of them would be sent for the others.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            trust_env=False,
            follow_redirects=False,
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """Close every connection."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    def _get_client(self) -> httpx2.AsyncClient:
        """Return the shared client. The end of `async with` leaves it open.

        Called on the class, it is the client of the one application that runs in this process.

        A call with its redirects and attempts ends after `total_timeout_seconds`, or after its own
        `extensions={"total_timeout": seconds}`, and raises `httpx2.ReadTimeout` then. A body that the caller reads in
        parts has the read timeout for each part. Raises RuntimeError while the pool is not open.
        """
        if self._client is None:
            raise RuntimeError("The HTTP client pool is not open: use it while the application runs.")
        return self._client

    get_client = OnClassToo(_get_client, "http")


class _Client(httpx2.AsyncClient):
    """Gives each call, with its redirects and the requests of its authentication, a deadline."""

    def __init__(
        self, *, total_timeout_seconds: float, around: Around | None, before: Before | None, **options: Any
    ) -> None:
        super().__init__(**options)
        self._before = before
        self._total_timeout = total_timeout_seconds
        self._around = around

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave the client open: the pool closes it."""

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        if self._before is not None and "is_internal" not in request.extensions:  # its caller has applied the rule
            await self._before(f"{request.method} {request.url.host}")
        seconds = float(request.extensions.get("total_timeout", self._total_timeout))
        request.extensions = {
            "timeout": self.timeout.as_dict(),
            **request.extensions,
            "total_timeout": seconds,
            "deadline": time.monotonic() + seconds,
        }
        send = partial(self._send, request, seconds, **options)
        return await (send() if self._around is None else self._around(request, send))

    async def _send(self, request: httpx2.Request, seconds: float, **options: Any) -> httpx2.Response:
        timeout = asyncio.timeout(seconds)
        try:
            async with timeout:
                return await super().send(request, **options)
        except TimeoutError as error:
            if not timeout.expired():
                raise
            raise too_late(request) from error
