"""One pool of outgoing HTTP connections for all modules, bounded in number, size and time."""

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from functools import cache, partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Self

import h2.exceptions
import httpx2

from kernel.http_client import http2_patch
from kernel.running import OnClassToo
from kernel.settings import HttpClientSettings

# Statuses that say "not now": the upstream, or a proxy before it, is busy, down or late.
OUTAGES = frozenset({429, 502, 503, 504})

Send = Callable[[], Awaitable[httpx2.Response]]
Around = Callable[[httpx2.Request, Send], Awaitable[httpx2.Response]]
Before = Callable[[str], Awaitable[None]]


# The timeouts and the deadline of the call that is under way, for the requests that its `Auth` makes: they have none.
_bounds: ContextVar[dict[str, Any]] = ContextVar("bounds")

# The client raises this if an upstream does not respond.
UpstreamFailed = httpx2.TransportError


class CircuitOpen(UpstreamFailed):
    """The upstream has failed so often that it gets no call for a while (extension `http_retries`)."""


def is_outage(error: BaseException) -> bool:
    """Return whether an upstream cannot be reached, does not answer in time, or says "not now"."""
    if isinstance(error, httpx2.HTTPStatusError):
        return error.response.status_code in OUTAGES
    return isinstance(error, httpx2.TimeoutException | httpx2.NetworkError | CircuitOpen)


def _unchanged(transport: httpx2.AsyncBaseTransport) -> httpx2.AsyncBaseTransport:
    return transport


@cache
def _system_context(_http2: bool) -> ssl.SSLContext:
    """Return the context with the system's certificates. Reading them takes 20 ms, so applications share it.

    There is one with and one without HTTP/2: httpcore writes the protocols that it offers into the context.
    """
    return httpx2.create_ssl_context(trust_env=False)


class HttpxRestClientPool:
    """The application's HTTP client. Open while the application runs: `async with pool:`."""

    def __init__(self, settings: HttpClientSettings, before: Before | None = None) -> None:
        """`before` is told the method and host of each call beforehand."""
        self._settings = settings
        self._before = before
        # Each call, with all its tries, goes through it.
        self.around: Around | None = None
        # Wraps the transport, inside the deadline of a call: retries, for instance.
        self.wrap_transport: Callable[[httpx2.AsyncBaseTransport], httpx2.AsyncBaseTransport] = _unchanged
        self._client: httpx2.AsyncClient | None = None
        self._transport: httpx2.AsyncHTTPTransport | None = None

    async def __aenter__(self) -> Self:
        """Open the pool. No connection is made before the first call. Raises OSError for an unreadable `ca_file`."""
        limits = httpx2.Limits(
            max_connections=self._settings.max_connections,
            max_keepalive_connections=self._settings.max_keepalive_connections,
            keepalive_expiry=self._settings.keepalive_expiry_seconds,
        )
        context = _system_context(self._settings.http2)
        if self._settings.ca_file is not None:
            context = httpx2.create_ssl_context(trust_env=False)
            context.load_verify_locations(self._settings.ca_file)
        if self._settings.http2:
            http2_patch.apply()
        # On the transport: a client that is given one ignores its own verify, limits and http2.
        transport = _SigningTransport(verify=context, trust_env=False, http2=self._settings.http2, limits=limits)
        self._transport = transport
        self._client = _Client(
            total_timeout_seconds=self._settings.total_timeout_seconds,
            around=self.around,
            before=self._before,
            transport=_DeadlineTransport(self.wrap_transport(transport), self._settings.max_answer_bytes),
            timeout=httpx2.Timeout(
                connect=self._settings.connect_timeout_seconds,
                read=self._settings.read_timeout_seconds,
                write=self._settings.write_timeout_seconds,
                pool=self._settings.pool_timeout_seconds,
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

        A call ends after `total_timeout_seconds` with all its tries and its whole body, or after its own
        `extensions={"total_timeout": seconds}`; it raises `httpx2.ReadTimeout` then. `extensions={"sign": function}`
        is called with the request before each try. Raises RuntimeError while the pool is not open.
        """
        if self._client is None:
            raise RuntimeError("The HTTP client pool is not open: use it while the application runs.")
        return self._client

    get_client = OnClassToo(_get_client, "http")

    def usage(self) -> Iterator[tuple[str, int]]:
        """Connections by their state."""
        pool: Any = getattr(self._transport, "_pool", None)
        found = list(pool.connections) if pool is not None else []
        idle = sum(connection.is_idle() for connection in found)
        yield from (("idle", idle), ("in_use", len(found) - idle))


class _Client(httpx2.AsyncClient):
    """Gives each call, redirects included, a deadline."""

    def __init__(
        self, *, total_timeout_seconds: float, around: Around | None, before: Before | None, **options: Any
    ) -> None:
        super().__init__(**options)
        self._before = before
        self._total_timeout = total_timeout_seconds
        self.around = around

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave the client open: the pool closes it."""

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        if self._before is not None and "sign" not in request.extensions:  # a contract call has obeyed the rule already
            await self._before(f"{request.method} {request.url.host}")
        total = float(request.extensions.get("total_timeout", self._total_timeout))
        bounds = {"timeout": self.timeout.as_dict()} | request.extensions
        bounds |= {"total_timeout": total, "deadline": time.monotonic() + total}
        request.extensions = bounds
        before = _bounds.set({name: bounds[name] for name in ("timeout", "total_timeout", "deadline")})
        try:
            if self.around is None:
                return await super().send(request, **options)
            return await self.around(request, partial(super().send, request, **options))
        finally:
            _bounds.reset(before)


class _DeadlineTransport(httpx2.AsyncBaseTransport):
    """Ends a call, with all that the inner transport does for it, at its deadline."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, max_body_bytes: int) -> None:
        self._inner = inner
        self._max_body_bytes = max_body_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if "deadline" not in request.extensions:
            request.extensions = {**request.extensions, **_bounds.get()}
        deadline: float = request.extensions["deadline"]
        async with _until(deadline, request):
            response = await self._inner.handle_async_request(request)
        stream = _DeadlineStream(response.stream, request, deadline, self._max_body_bytes)
        return _BoundedResponse(response, stream, self._max_body_bytes)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _SigningTransport(httpx2.AsyncHTTPTransport):
    """Signs each try of a call that asks for it (`extensions={"sign": function}`)."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if "sign" in request.extensions:
            request.extensions["sign"](request)
        return await super().handle_async_request(request)


class _DeadlineStream(httpx2.AsyncByteStream):
    """A body that must have arrived by the deadline, and fit: the read timeout alone starts anew with each chunk."""

    def __init__(self, inner: Any, request: httpx2.Request, deadline: float, max_bytes: int) -> None:
        self._inner = inner
        self._bytes_left = max_bytes
        self._request = request
        self._deadline = deadline

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async with aclosing(aiter(self._inner)) as parts:
            while True:
                async with _until(self._deadline, self._request):
                    part = await anext(parts, None)
                if part is None:
                    return
                self._bytes_left -= len(part)
                if self._bytes_left < 0:
                    raise _too_large(self._request)
                yield part

    async def aclose(self) -> None:
        await self._inner.aclose()


class _BoundedResponse(httpx2.Response):
    """A response whose body fits after its decompression, too. `_DeadlineStream` bounds it as it arrives."""

    def __init__(self, response: httpx2.Response, stream: httpx2.AsyncByteStream, most_bytes: int) -> None:
        super().__init__(response.status_code, headers=response.headers, stream=stream, extensions=response.extensions)
        self._most_bytes = most_bytes

    async def aiter_bytes(self, chunk_size: int | None = None) -> AsyncGenerator[bytes, None]:
        size = 0
        async with aclosing(super().aiter_bytes(chunk_size)) as parts:
            async for part in parts:
                size += len(part)
                if size > self._most_bytes:
                    raise _too_large(self.request)
                yield part


def _too_large(request: httpx2.Request) -> httpx2.RemoteProtocolError:
    message = f"{request.url.host}: the answer is larger than HTTP_CLIENT_MAX_ANSWER_BYTES"
    return httpx2.RemoteProtocolError(message, request=request)


@asynccontextmanager
async def _until(deadline: float, request: httpx2.Request) -> AsyncIterator[None]:
    """End the block at the deadline (of time.monotonic). Raises ReadTimeout or RemoteProtocolError."""
    timeout = asyncio.timeout(deadline - time.monotonic())
    try:
        async with timeout:
            yield
    except h2.exceptions.ProtocolError as error:
        # httpx2 lets this through when a call that was cancelled has closed the connection under the others.
        raise httpx2.RemoteProtocolError(str(error), request=request) from error
    except TimeoutError as error:
        if not timeout.expired():
            raise
        total = request.extensions["total_timeout"]
        message = f"{request.method} {request.url.host}: no complete answer within {total:g} s"
        raise httpx2.ReadTimeout(message, request=request) from error
