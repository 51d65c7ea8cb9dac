"""/metrics: what this process and the workers beside it count, in Prometheus' words."""

import asyncio
import hmac
import os
import pickle
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from starlette.requests import Request
from starlette.responses import Response

from kernel.ext.http_retries.transport import Retries
from kernel.ext.messaging.operations import backlog
from kernel.ext.telemetry.meter import BUCKETS, Meter
from kernel.ext.telemetry.settings import TelemetrySettings
from kernel.runtime import Kernel
from kernel.serving import Siblings
from kernel.settings import Environment
from kernel.web.problems import answer

if TYPE_CHECKING:
    from prometheus_client import Metric

_log = structlog.get_logger("kernel.metrics")

PATH = "/metrics"
_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# For what has to be asked elsewhere: the outboxes, and the other workers. A scrape is never kept waiting for more.
_PATIENCE_SECONDS = 1.0
_BACKLOG_CACHE_SECONDS = 5.0


class Metrics:
    """Of one process. `meter` is None where nothing is served (`kernel relay`)."""

    def __init__(self, kernel: Kernel, meter: Meter | None) -> None:
        self._kernel = kernel
        self._meter = meter
        siblings = kernel.find(Siblings)
        self._socket = None if siblings is None else siblings.folder / f"{os.getpid()}.sock"
        self._backlog: list[Any] = []
        self._backlog_at = float("-inf")
        self._registry: Any = None

    @property
    def is_served(self) -> bool:
        """In LOCAL to everybody, elsewhere only to who has the token."""
        settings = self._kernel.settings
        is_guarded = settings.group(TelemetrySettings).metrics_token is not None
        return settings.group(TelemetrySettings).metrics and (
            is_guarded or settings.application.environment is Environment.LOCAL
        )

    async def respond(self, request: Request) -> Response:
        """The answer to a scrape."""
        token = self._kernel.settings.group(TelemetrySettings).metrics_token
        sent = request.headers.get("authorization", "").encode()
        if token is not None and not hmac.compare_digest(sent, f"Bearer {token.get_secret_value()}".encode()):
            challenge = {"WWW-Authenticate": 'Bearer realm="metrics"'}
            return answer(request, 401, "Send TELEMETRY_METRICS_TOKEN as a bearer token.", headers=challenge)
        return Response(await self.text(), media_type=_MEDIA_TYPE, headers={"Cache-Control": "no-store"})

    async def text(self) -> bytes:
        """All that is known, of all workers."""
        from prometheus_client import generate_latest  # noqa: PLC0415  # by the first scrape, not by every start

        families: dict[str, Metric] = {}
        _, others = await asyncio.gather(self._look_at_outboxes(), self._others())
        for found in [self._own(), *others]:
            for family in found:
                known = families.setdefault(family.name, family)
                if known is not family:
                    known.samples.extend(family.samples)
        return generate_latest(_Collected(families.values()))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer the other workers, while there may be any."""
        if self._socket is None or not hasattr(asyncio, "start_unix_server"):
            yield
            return
        server = await asyncio.start_unix_server(self._tell, self._socket)
        try:
            yield
        finally:
            server.close()
            self._socket.unlink(missing_ok=True)

    async def _tell(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(pickle.dumps(self._own()))
            await writer.drain()
        writer.close()
        await self._look_at_outboxes()  # for the next time: who asks does not wait for our database

    async def _others(self) -> list[list["Metric"]]:
        if self._socket is None:
            return []
        sockets = [path for path in self._socket.parent.glob("*.sock") if path != self._socket]
        return [found for found in await asyncio.gather(*map(_ask, sockets)) if found is not None]

    def _own(self) -> list["Metric"]:
        """What this process knows; with a label that says which it is, where there are several."""
        found = [*self._families(), *self._of_process()]
        if self._socket is not None:
            for family in found:
                family.samples = [
                    one._replace(labels={**one.labels, "worker": str(os.getpid())}) for one in family.samples
                ]
        return found

    def _families(self) -> Iterator["Metric"]:
        from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily  # noqa: PLC0415

        def gauge(name: str, text: str, labels: Iterable[str], rows: Iterable[tuple[Any, float]]) -> "Metric":
            family = GaugeMetricFamily(name, text, labels=list(labels))
            for values, number in rows:
                family.add_metric([str(value) for value in values], number)
            return family

        kernel, meter = self._kernel, self._meter
        settings = kernel.settings.application
        yield gauge(
            "application_info",
            "What runs.",
            ("version", "environment"),
            [((settings.version, settings.environment), 1)],
        )
        if meter is not None:
            prefixes = {module.name: module.prefix for module in kernel.modules}
            durations = HistogramMetricFamily(
                "http_server_request_duration_seconds", "Requests, from their first byte to the last of the answer.",
                labels=["module", "route", "method", "status"],
            )  # fmt: skip
            for (module, route, method, status), one in list(meter.requests.items()):
                prefix = prefixes.get(module, "")
                whole = route if route is None or route.startswith(prefix) else prefix + route
                durations.add_metric([module, whole or "", method, str(status)], _cumulated(one.counts), one.total)
            yield durations
            yield gauge("http_server_requests_in_flight", "Requests under way.", (), [((), meter.in_flight)])
            yield gauge("websocket_connections", "Open WebSockets.", (), [((), meter.websockets)])
            yield gauge(
                "event_loop_lag_seconds", "By how much the event loop was late: the most since the last scrape.", (),
                [((), meter.lag)],
            )  # fmt: skip
            meter.lag = 0.0
        pools = list(kernel.pool.usage())
        yield gauge(
            "database_pool_connections", "Open connections.", ("database", "state"),
            [((one.name, state), getattr(one, state)) for one in pools for state in ("in_use", "idle")],
        )  # fmt: skip
        yield gauge(
            "database_pool_limit",
            "The most that may be open.",
            ("database",),
            [((one.name,), one.limit) for one in pools],
        )
        yield gauge(
            "database_pool_waiting", "Who waits for one.", ("database",), [((one.name,), one.waiting) for one in pools]
        )
        shares = list(kernel.pool.shares())
        yield gauge(
            "database_pool_overflow", "Of those in use, how many are above the pool's size.", ("database",),
            [((one.name,), one.overflow) for one in pools],
        )  # fmt: skip
        yield gauge(
            "database_module_in_use", "Of its share.", ("module",), [((one.name,), one.in_use) for one in shares]
        )
        yield gauge(
            "database_module_waiting", "For its share.", ("module",), [((one.name,), one.waiting) for one in shares]
        )
        yield gauge(
            "database_module_overflow", "Above the pool's size, were there no other module.", ("module",),
            [((one.name,), one.overflow) for one in shares],
        )  # fmt: skip
        yield gauge(
            "http_client_connections", "To others.", ("state",), [((state,), n) for state, n in kernel.http.usage()]
        )
        retries = kernel.find(Retries)
        known = {} if retries is None else retries.circuits
        circuits = [((origin,), float(one.state != "closed")) for origin, one in known.items()]
        yield gauge("http_client_circuit_open", "Whether an upstream is not asked for a while.", ("origin",), circuits)
        yield gauge("messages", "Not delivered yet, or given up.", ("module", "state"), self._by_state())
        yield gauge(
            "messages_oldest_seconds", "The age of the oldest that waits.", ("module",),
            [((module,), age) for module, age in self._oldest().items()],
        )  # fmt: skip

    def _by_state(self) -> Iterator[tuple[tuple[str, str], float]]:
        counts: dict[tuple[str, str], int] = {}
        for one in self._backlog:
            key = (one.module, str(one.state.value))
            counts[key] = counts.get(key, 0) + one.messages
        yield from counts.items()

    def _oldest(self) -> dict[str, float]:
        ages = {name: 0.0 for name, context in self._kernel.contexts.items() if context.database.outbox is not None}
        for one in self._backlog:
            if one.state.value != "abandoned":
                ages[one.module] = max(ages.get(one.module, 0.0), one.oldest_seconds)
        return ages

    async def _look_at_outboxes(self) -> None:
        """Now and then, and not for long: a scrape must tell the rest while the database is down."""
        if time.monotonic() - self._backlog_at < _BACKLOG_CACHE_SECONDS:
            return
        self._backlog_at = time.monotonic()
        outboxes: list[Any] = [context.database.outbox for context in self._kernel.contexts.values()]
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                self._backlog = [row for outbox in outboxes if outbox is not None for row in await backlog(outbox)]
        except Exception as error:  # noqa: BLE001  # whatever the database says
            self._backlog = []
            _log.warning("the backlog of messages is not known", reason=repr(error))

    def _of_process(self) -> Iterable["Metric"]:
        from prometheus_client import CollectorRegistry, ProcessCollector  # noqa: PLC0415

        if self._registry is None:
            self._registry = CollectorRegistry()
            ProcessCollector(registry=self._registry)
        return list(self._registry.collect())


class _Collected:
    def __init__(self, families: Iterable["Metric"]) -> None:
        self.collect: Callable[[], Iterable[Metric]] = lambda: families


def _cumulated(counts: list[int]) -> list[tuple[str, float]]:
    total, found = 0, []
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found


async def _ask(socket: Path) -> "list[Metric] | None":
    """What another worker counts; None if it is gone or too busy."""
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                said = await reader.read()
            finally:
                writer.close()
        found: list[Metric] = pickle.loads(said)  # noqa: S301  # from our own sibling, through a folder that is ours alone
    except (OSError, TimeoutError, EOFError, pickle.UnpicklingError):
        return None
    return found
