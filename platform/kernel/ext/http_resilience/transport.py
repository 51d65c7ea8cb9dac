"""Retries, circuit breakers and concurrency limits, between the deadline of a call and the network."""

import asyncio
import math
import random
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from kernel.ext.http_resilience.circuit_breaker import Circuit
from kernel.ext.http_resilience.settings import ResilienceSettings
from kernel.gauges import Gauge
from kernel.http_client import OUTAGES, CircuitOpen

# RFC 9110, section 9.2.2. Any other method is idempotent if it carries an Idempotency-Key.
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
_OUT_OF_ORDER = OUTAGES - {429}
# Nothing was sent, so even a POST can be repeated. PoolTimeout is not in the list, because this process caused it.
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout)
# The connection broke, and the upstream may or may not have carried out the request.
_DROPPED = (httpx2.ReadError, httpx2.WriteError, httpx2.CloseError, httpx2.RemoteProtocolError)
# These say nothing about the upstream: the pool was full, or the call was invalid.
_OUR_OWN = (httpx2.PoolTimeout, httpx2.LocalProtocolError, httpx2.UnsupportedProtocol)
# An upstream that had less time than this does not count as failed if it missed the deadline.
_FAIR_SECONDS = 1.0
_MOST_ORIGINS = 1000
# How long the rest of a failed response may take; its connection is closed otherwise.
_DISCARD_SECONDS = 0.5


class Retries:
    """The circuits of an application's upstreams, and the transport that uses them."""

    def __init__(self, settings: ResilienceSettings, pool_timeout_seconds: float) -> None:
        self._settings = settings
        self._pool_timeout_seconds = pool_timeout_seconds
        # By origin (https://host:port), of the most recent upstreams.
        self.circuits: dict[str, Circuit] = {}

    def gauges(self) -> Iterator[Gauge]:
        """Return which upstreams get no calls for a while."""
        rows = [((origin,), float(circuit.state != "closed")) for origin, circuit in self.circuits.items()]
        yield Gauge("http_client_circuit_open", "Whether an upstream gets no calls for a while.", ("origin",), rows)

    async def refresh(self) -> None:
        """Do nothing: the circuits are in this process."""

    def around(self, transport: httpx2.AsyncBaseTransport) -> httpx2.AsyncBaseTransport:
        """Return a transport that retries what `transport` sends."""
        return RetryingTransport(transport, self._settings, self._pool_timeout_seconds, self.circuits)


class RetryingTransport(httpx2.AsyncBaseTransport):
    """Repeats a call where that is safe, and stops calling a failing upstream for a while."""

    def __init__(
        self,
        inner: httpx2.AsyncBaseTransport,
        settings: ResilienceSettings,
        pool_timeout_seconds: float,
        circuits: dict[str, Circuit],
    ) -> None:
        self._inner = inner
        self._settings = settings
        self._pool_timeout_seconds = pool_timeout_seconds
        self._circuits = circuits

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        deadline: float = request.extensions.get("deadline", math.inf)  # The request of an `Auth` has no deadline.
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
        response.stream = _CountedStream(response.stream, deadline, circuit, epoch)
        return response

    async def _admitted(self, request: httpx2.Request) -> tuple[Circuit, int]:
        """Return the circuit of the request's upstream, with a place in it, and its epoch.

        Raises CircuitOpen, PoolTimeout.
        """
        origin = f"{request.url.scheme}://{request.url.netloc.decode()}"
        circuit = self._circuits.get(origin)
        if circuit is None:
            if len(self._circuits) >= _MOST_ORIGINS:
                del self._circuits[next(iter(self._circuits))]
            settings = self._settings
            circuit = Circuit(settings.circuit_open_seconds, settings.max_calls_per_origin)
            self._circuits[origin] = circuit
        patience = asyncio.timeout(self._pool_timeout_seconds)
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
                await _discard(response)
            await asyncio.sleep(pause)
            attempt += 1

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _has_room(self, attempt: int, pause: float, deadline: float) -> bool:
        return attempt < self._settings.max_attempts and time.monotonic() + pause < deadline

    def _backoff(self, attempt: int) -> float:
        """Return the seconds before the next try: exponential, with full jitter.

        https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        """
        ceiling = min(self._settings.max_backoff_seconds, self._settings.backoff_seconds * 2 ** (attempt - 1))
        return random.uniform(0, ceiling)  # noqa: S311  # jitter, not a secret


class _CountedStream(httpx2.AsyncByteStream):
    """A body that reports its end to the circuit of its upstream, and keeps its place until it is closed."""

    def __init__(self, inner: Any, deadline: float, circuit: Circuit, epoch: int) -> None:
        self._inner = inner
        self._deadline = deadline
        self._circuit: Circuit | None = circuit
        self._epoch = epoch
        self._began_at = time.monotonic()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        waited = 0.0
        async with aclosing(aiter(self._inner)) as parts:
            while True:
                asked_at = time.monotonic()
                try:
                    part = await anext(parts, None)
                except BaseException as error:
                    waited += time.monotonic() - asked_at
                    if self._circuit is not None and self._is_upstreams_fault(error, waited):
                        self._circuit.note(self._epoch, ok=False)
                    raise
                waited += time.monotonic() - asked_at
                if part is None:
                    return
                yield part

    def _is_upstreams_fault(self, error: BaseException, waited: float) -> bool:
        """Return False if a slow reader used most of the time until the deadline."""
        now = time.monotonic()
        if now >= self._deadline:
            return waited >= (now - self._began_at) / 2
        return isinstance(error, httpx2.TransportError)

    async def aclose(self) -> None:
        circuit, self._circuit = self._circuit, None
        try:
            await self._inner.aclose()
        finally:
            if circuit is not None:
                circuit.places.release()


async def _discard(response: httpx2.Response) -> None:
    """Read a failed response to its end, so that the next try can use its connection; close a slow one."""
    try:
        with suppress(httpx2.TransportError, TimeoutError):
            async with asyncio.timeout(_DISCARD_SECONDS):
                async for _ in response.aiter_raw():
                    pass
    finally:
        await response.aclose()


def _is_safe_after(error: httpx2.TransportError, request: httpx2.Request, started: float) -> bool:
    if isinstance(error, _NOT_SENT):
        return not _is_about_certificates(error)
    if isinstance(error, httpx2.ReadTimeout):
        # Another request does not help an upstream that is too slow. But on HTTP/2 all calls of a connection fail when
        # one of them times out: a call whose own timeout has not passed was only dropped with the connection.
        own_limit = request.extensions.get("timeout", {}).get("read")
        return own_limit is not None and time.monotonic() - started < own_limit and _is_repeatable(request)
    return isinstance(error, _DROPPED) and _is_repeatable(request)


def _is_repeatable(request: httpx2.Request) -> bool:
    """Return whether a request can be sent twice without harm, and its body is still available."""
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
