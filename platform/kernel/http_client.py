"""One pool of outgoing HTTP connections for all modules: bounded in number and time, retried only where it is safe."""

import asyncio
import random
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx2

from kernel.settings import HttpClientSettings

# RFC 9110, section 9.2.2. Any other method is idempotent if it carries an Idempotency-Key.
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
_RETRIED_STATUSES = frozenset({429, 502, 503, 504})
# Nothing was sent yet, so that even a POST may be tried again. Not PoolTimeout: we ourselves are the bottleneck then.
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout)
# The connection broke. Not ReadTimeout: an upstream that is too slow is not helped by asking it twice.
_DROPPED = (httpx2.ReadError, httpx2.WriteError, httpx2.CloseError, httpx2.RemoteProtocolError)


class HttpxRestClientPool:
    """The application's HTTP client. Open while the application runs."""

    def __init__(self, settings: HttpClientSettings) -> None:
        self._settings = settings
        self._client: httpx2.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        """Open the pool. No connection is made before the first call."""
        limits = httpx2.Limits(
            max_connections=self._settings.max_connections,
            max_keepalive_connections=self._settings.max_keepalive_connections,
            keepalive_expiry=self._settings.keepalive_expiry_seconds,
        )
        context = ssl.create_default_context()
        if self._settings.ca_file is not None:
            context.load_verify_locations(self._settings.ca_file)
        # On the transport: a client that is given one ignores its own verify, limits and http2.
        transport = httpx2.AsyncHTTPTransport(
            verify=context, trust_env=False, http2=self._settings.http2, limits=limits
        )
        self._client = _Client(
            total_timeout_seconds=self._settings.total_timeout_seconds,
            transport=_RetryingTransport(transport, self._settings),
            timeout=httpx2.Timeout(
                connect=self._settings.connect_timeout_seconds,
                read=self._settings.read_timeout_seconds,
                write=self._settings.write_timeout_seconds,
                pool=self._settings.pool_timeout_seconds,
            ),
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
        `extensions={"total_timeout": seconds}`. Raises RuntimeError while the pool is not open.
        """
        if self._client is None:
            raise RuntimeError("The HTTP client pool is not open: use it while the application runs.")
        return self._client


class _Client(httpx2.AsyncClient):
    """Gives each call, redirects included, a deadline."""

    def __init__(self, *, total_timeout_seconds: float, **options: Any) -> None:
        super().__init__(**options)
        self._total_timeout = total_timeout_seconds

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        total = float(request.extensions.get("total_timeout", self._total_timeout))
        request.extensions = {**request.extensions, "total_timeout": total, "deadline": time.monotonic() + total}
        return await super().send(request, **options)


class _RetryingTransport(httpx2.AsyncBaseTransport):
    """Tries again what may be tried again, until the deadline."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, settings: HttpClientSettings) -> None:
        self._inner = inner
        self._settings = settings

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        deadline: float = request.extensions["deadline"]
        attempt = 1
        while True:
            response, error = await self._try(request, deadline)
            pause = self._pause(attempt, response)
            is_last = attempt >= self._settings.max_attempts or time.monotonic() + pause >= deadline
            if is_last or not _may_retry(request, response, error):
                break
            if response is not None:
                await response.aclose()
            await asyncio.sleep(pause)
            attempt += 1
        if response is None:
            assert error is not None  # noqa: S101  # for the type checker: _try gives one or the other
            raise error
        response.stream = _DeadlineStream(response.stream, request, deadline)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _try(
        self, request: httpx2.Request, deadline: float
    ) -> tuple[httpx2.Response | None, httpx2.TransportError | None]:
        try:
            async with _until(deadline, request):
                return await self._inner.handle_async_request(request), None
        except httpx2.TransportError as error:
            return None, error

    def _pause(self, attempt: int, response: httpx2.Response | None) -> float:
        """Seconds before the next try: what the upstream asks for, else exponential back-off with full jitter.

        https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        """
        asked_for = _retry_after(response)
        if asked_for is not None:
            return asked_for
        ceiling = min(self._settings.max_backoff_seconds, self._settings.backoff_seconds * 2 ** (attempt - 1))
        return random.uniform(0, ceiling)  # noqa: S311  # jitter, not a secret


class _DeadlineStream(httpx2.AsyncByteStream):
    """A body that must have arrived by the deadline: the read timeout alone starts anew with each chunk."""

    def __init__(self, inner: Any, request: httpx2.Request, deadline: float) -> None:
        self._inner = inner
        self._request = request
        self._deadline = deadline

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = aiter(self._inner)
        while True:
            async with _until(self._deadline, self._request):
                part = await anext(parts, None)
            if part is None:
                return
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()


@asynccontextmanager
async def _until(deadline: float, request: httpx2.Request) -> AsyncIterator[None]:
    """End the block at the deadline (of time.monotonic). Raises ReadTimeout."""
    timeout = asyncio.timeout(deadline - time.monotonic())
    try:
        async with timeout:
            yield
    except TimeoutError as error:
        if not timeout.expired():
            raise
        total = request.extensions["total_timeout"]
        message = f"{request.method} {request.url.host}: no complete answer within {total:g} s"
        raise httpx2.ReadTimeout(message, request=request) from error


def _may_retry(request: httpx2.Request, response: httpx2.Response | None, error: httpx2.TransportError | None) -> bool:
    if isinstance(error, _NOT_SENT):
        return not _is_about_certificates(error)
    if request.method not in _IDEMPOTENT and "idempotency-key" not in request.headers:
        return False
    if not isinstance(request.stream, httpx2.ByteStream):  # it has been sent, and may be gone
        return False
    return isinstance(error, _DROPPED) or (response is not None and response.status_code in _RETRIED_STATUSES)


def _is_about_certificates(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _retry_after(response: httpx2.Response | None) -> float | None:
    """The seconds that `Retry-After` asks for, given as a number or a date (RFC 9110, section 10.2.3)."""
    value = "" if response is None else response.headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None
