"""One pool of outgoing HTTP connections for all modules: bounded in number and time, retried only where it is safe."""

import asyncio
import random
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Self

import h2.exceptions
import httpx2

from kernel.http_client import http2_patch
from kernel.http_client.circuit_breaker import Circuit
from kernel.settings import HttpClientSettings

# RFC 9110, section 9.2.2. Any other method is idempotent if it carries an Idempotency-Key.
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
# Statuses that say "not now": the upstream, or a proxy before it, is busy, down or late.
OUTAGES = frozenset({429, 502, 503, 504})
_OUT_OF_ORDER = OUTAGES - {429}
# Nothing was sent yet, so that even a POST may be tried again. Not PoolTimeout: we ourselves are the bottleneck then.
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout)
# The connection broke, and the upstream may or may not have done what was asked.
_DROPPED = (httpx2.ReadError, httpx2.WriteError, httpx2.CloseError, httpx2.RemoteProtocolError)
# What says nothing of the upstream: there was no room here, or the call made no sense.
_OUR_OWN = (httpx2.PoolTimeout, httpx2.LocalProtocolError, httpx2.UnsupportedProtocol)
# Whoever is given less than this to answer and does not is no sign of ill health.
_FAIR_SECONDS = 1.0
_MOST_ORIGINS = 1000
# How long the rest of a failed answer may take; its connection is closed otherwise.
_DISCARD_SECONDS = 0.5

Send = Callable[[], Awaitable[httpx2.Response]]
Around = Callable[[httpx2.Request, Send], Awaitable[httpx2.Response]]
Before = Callable[[str], Awaitable[None]]


# The timeouts and the deadline of the call that is under way, for the requests that its `Auth` makes: they have none.
_bounds: ContextVar[dict[str, Any]] = ContextVar("bounds")

# What the client raises where an upstream gives no answer.
UpstreamFailed = httpx2.TransportError


class CircuitOpen(UpstreamFailed):
    """The upstream has failed so often that it is not asked for a while."""


def is_outage(error: BaseException) -> bool:
    """Return whether an upstream cannot be reached, does not answer in time, or says "not now"."""
    if isinstance(error, httpx2.HTTPStatusError):
        return error.response.status_code in OUTAGES
    return isinstance(error, httpx2.TimeoutException | httpx2.NetworkError | CircuitOpen)


class HttpxRestClientPool:
    """The application's HTTP client. Open while the application runs: `async with pool:`."""

    def __init__(self, settings: HttpClientSettings, before: Before | None = None) -> None:
        """`before` is told the method and host of each call beforehand."""
        self._settings = settings
        self._before = before
        # Each call, with all its tries, goes through it.
        self.around: Around | None = None
        self._client: httpx2.AsyncClient | None = None
        # By origin (https://host:port), of all that were asked lately.
        self.circuits: dict[str, Circuit] = {}
        self._transport: httpx2.AsyncHTTPTransport | None = None

    async def __aenter__(self) -> Self:
        """Open the pool. No connection is made before the first call. Raises OSError for an unreadable `ca_file`."""
        limits = httpx2.Limits(
            max_connections=self._settings.max_connections,
            max_keepalive_connections=self._settings.max_keepalive_connections,
            keepalive_expiry=self._settings.keepalive_expiry_seconds,
        )
        context = httpx2.create_ssl_context(trust_env=False)
        if self._settings.ca_file is not None:
            context.load_verify_locations(self._settings.ca_file)
        if self._settings.http2:
            http2_patch.apply()
        # On the transport: a client that is given one ignores its own verify, limits and http2.
        transport = httpx2.AsyncHTTPTransport(
            verify=context, trust_env=False, http2=self._settings.http2, limits=limits
        )
        self._transport = transport
        self._client = _Client(
            total_timeout_seconds=self._settings.total_timeout_seconds,
            around=self.around,
            before=self._before,
            transport=_RetryingTransport(transport, self._settings, self.circuits),
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

    def get_client(self) -> httpx2.AsyncClient:
        """The shared client; do not close it.

        A call ends after `total_timeout_seconds` with all its tries and its whole body, or after its own
        `extensions={"total_timeout": seconds}`; it raises `httpx2.ReadTimeout` then. `extensions={"sign": function}`
        is called with the request before each try. A body that breaks off is not
        fetched again: part of it may already be in use. An upstream that fails all the time is not asked for a while:
        CircuitOpen is raised at once. Raises RuntimeError while the pool is not open.
        """
        if self._client is None:
            raise RuntimeError("The HTTP client pool is not open: use it while the application runs.")
        return self._client

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


class _RetryingTransport(httpx2.AsyncBaseTransport):
    """Tries again what may be tried again, until the deadline."""

    def __init__(
        self, inner: httpx2.AsyncBaseTransport, settings: HttpClientSettings, circuits: dict[str, Circuit]
    ) -> None:
        self._inner = inner
        self._settings = settings
        self._circuits = circuits

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if "deadline" not in request.extensions:
            request.extensions = {**request.extensions, **_bounds.get()}
        deadline: float = request.extensions["deadline"]
        async with _until(deadline, request):
            circuit, epoch = await self._admitted(request)
            began_at = time.monotonic()
            try:
                response = await self._handle(request, deadline, circuit)
            except BaseException as error:
                circuit.places.release()
                is_late = time.monotonic() >= deadline and deadline - began_at > _FAIR_SECONDS
                if is_late or (isinstance(error, httpx2.TransportError) and not isinstance(error, _OUR_OWN)):
                    circuit.note(epoch, ok=False)
                else:
                    circuit.forget(epoch)
                raise
        circuit.note(epoch, ok=response.status_code not in _OUT_OF_ORDER)
        most_bytes = self._settings.max_answer_bytes
        stream = _DeadlineStream(response.stream, request, deadline, circuit, epoch, most_bytes)
        return _BoundedResponse(response, stream, most_bytes)

    async def _admitted(self, request: httpx2.Request) -> tuple[Circuit, int]:
        """The circuit of the request's upstream, with a place in it, and its epoch. Raises CircuitOpen, PoolTimeout."""
        origin = f"{request.url.scheme}://{request.url.netloc.decode()}"
        circuit = self._circuits.get(origin)
        if circuit is None:
            if len(self._circuits) >= _MOST_ORIGINS:
                del self._circuits[next(iter(self._circuits))]
            settings = self._settings
            circuit = Circuit(settings.circuit_open_seconds, settings.max_calls_per_origin)
            self._circuits[origin] = circuit
        patience = asyncio.timeout(self._settings.pool_timeout_seconds)
        try:
            async with patience:
                await circuit.places.acquire()
        except TimeoutError as error:
            if not patience.expired():
                raise
            raise httpx2.PoolTimeout(f"{origin} has all its places in use", request=request) from error
        epoch = circuit.admits()
        if epoch is None:
            circuit.places.release()
            message = f"{origin} has failed too often: it is asked again in {circuit.opens_in():.1f} s"
            raise CircuitOpen(message, request=request)
        return circuit, epoch

    async def _handle(self, request: httpx2.Request, deadline: float, circuit: Circuit) -> httpx2.Response:
        attempt = 1
        while True:
            started = time.monotonic()
            if "sign" in request.extensions:
                request.extensions["sign"](request)
            try:
                response = await self._inner.handle_async_request(request)
            except httpx2.TransportError as error:
                pause = self._backoff(attempt)
                is_safe = _is_safe_after(error, request, started)
                if not (is_safe and self._has_room(attempt, pause, deadline) and circuit.takes_retry()):
                    raise
            else:
                asked_for = _retry_after(response)
                pause = self._backoff(attempt) if asked_for is None else asked_for
                is_retried = response.status_code in OUTAGES and _is_repeatable(request)
                if not (is_retried and self._has_room(attempt, pause, deadline) and circuit.takes_retry()):
                    return response
                await _discard(response, request)
            await asyncio.sleep(pause)
            attempt += 1

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _has_room(self, attempt: int, pause: float, deadline: float) -> bool:
        return attempt < self._settings.max_attempts and time.monotonic() + pause < deadline

    def _backoff(self, attempt: int) -> float:
        """Seconds before the next try: exponential, with full jitter.

        https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        """
        ceiling = min(self._settings.max_backoff_seconds, self._settings.backoff_seconds * 2 ** (attempt - 1))
        return random.uniform(0, ceiling)  # noqa: S311  # jitter, not a secret


class _DeadlineStream(httpx2.AsyncByteStream):
    """A body that must have arrived by the deadline, and fit: the read timeout alone starts anew with each chunk."""

    def __init__(
        self, inner: Any, request: httpx2.Request, deadline: float, circuit: Circuit, epoch: int, most_bytes: int
    ) -> None:
        self._inner = inner
        self._circuit: Circuit | None = circuit
        self._epoch = epoch
        self._bytes_left = most_bytes
        self._request = request
        self._deadline = deadline
        self._began_at = time.monotonic()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        waited = 0.0
        async with aclosing(aiter(self._inner)) as parts:
            while True:
                asked_at = time.monotonic()
                try:
                    async with _until(self._deadline, self._request):
                        part = await anext(parts, None)
                except httpx2.TransportError:
                    if self._circuit is not None and not self._is_readers_fault(waited + time.monotonic() - asked_at):
                        self._circuit.note(self._epoch, ok=False)
                    raise
                waited += time.monotonic() - asked_at
                if part is None:
                    return
                self._bytes_left -= len(part)
                if self._bytes_left < 0:
                    raise _too_large(self._request)
                yield part

    def _is_readers_fault(self, waited: float) -> bool:
        """Whether the deadline has passed, and most of the time with whoever reads: the upstream waited for them."""
        now = time.monotonic()
        return now >= self._deadline and waited < (now - self._began_at) / 2

    async def aclose(self) -> None:
        circuit, self._circuit = self._circuit, None
        try:
            await self._inner.aclose()
        finally:
            if circuit is not None:
                circuit.places.release()


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


async def _discard(response: httpx2.Response, request: httpx2.Request) -> None:
    """Read a failed answer to its end, so that its connection serves the next try; cut a slow one off."""
    try:
        with suppress(httpx2.TransportError):
            async with _until(time.monotonic() + _DISCARD_SECONDS, request):
                async for _ in response.aiter_raw():
                    pass
    finally:
        await response.aclose()


def _is_safe_after(error: httpx2.TransportError, request: httpx2.Request, started: float) -> bool:
    if isinstance(error, _NOT_SENT):
        return not _is_about_certificates(error)
    if isinstance(error, httpx2.ReadTimeout):
        # An upstream that is too slow is not helped by asking it twice. But on HTTP/2 all calls of a connection fail
        # when one of them times out: a call that has not waited its own time out was merely dropped.
        own_limit = request.extensions["timeout"]["read"]
        return own_limit is not None and time.monotonic() - started < own_limit and _is_repeatable(request)
    return isinstance(error, _DROPPED) and _is_repeatable(request)


def _is_repeatable(request: httpx2.Request) -> bool:
    """Whether doing it twice is as good as once, and its body is still at hand."""
    is_idempotent = request.method in _IDEMPOTENT or "idempotency-key" in request.headers
    return is_idempotent and isinstance(request.stream, httpx2.ByteStream)


def _is_about_certificates(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _retry_after(response: httpx2.Response) -> float | None:
    """The seconds that `Retry-After` asks for, given as a number or a date (RFC 9110, section 10.2.3)."""
    value = response.headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None
