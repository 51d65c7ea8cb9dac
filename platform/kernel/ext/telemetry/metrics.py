"""/metrics: what this process and the workers beside it count."""

import asyncio
import hmac
import os
import pickle
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from starlette.requests import Request
from starlette.responses import Response

from kernel.ext.telemetry.meter import Meter
from kernel.ext.telemetry.settings import TelemetrySettings
from kernel.gauges import GaugeSource
from kernel.runtime import Kernel
from kernel.serving import Siblings
from kernel.settings import Environment
from kernel.web.problems import answer

if TYPE_CHECKING:
    from prometheus_client import Metric

_log = structlog.get_logger("kernel.metrics")

PATH = "/metrics"
_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# How long a scrape waits for numbers from elsewhere: databases, and the other workers.
_WAIT_SECONDS = 1.0
_REFRESH_SECONDS = 5.0


class Metrics:
    """The metrics of one process, and of its siblings."""

    def __init__(self, kernel: Kernel, meter: Meter) -> None:
        self._kernel = kernel
        self._meter = meter
        siblings = kernel.find(Siblings)
        self._socket = None if siblings is None else siblings.folder / f"{os.getpid()}.sock"
        self._refreshed_at = float("-inf")

    @property
    def is_served(self) -> bool:
        """Return whether /metrics is served: in LOCAL to every caller, elsewhere to callers with the token."""
        settings, environment = self._settings, self._kernel.settings.application.environment
        return settings.metrics and (settings.metrics_token is not None or environment is Environment.LOCAL)

    @property
    def _settings(self) -> TelemetrySettings:
        return self._kernel.settings.group(TelemetrySettings)

    async def respond(self, request: Request) -> Response:
        """Answer a scrape."""
        token = self._settings.metrics_token
        sent = request.headers.get("authorization", "").encode()
        if token is not None and not hmac.compare_digest(sent, f"Bearer {token.get_secret_value()}".encode()):
            challenge = {"WWW-Authenticate": 'Bearer realm="metrics"'}
            return answer(request, 401, "Send TELEMETRY_METRICS_TOKEN as a bearer token.", headers=challenge)
        return Response(await self.text(), media_type=_MEDIA_TYPE, headers={"Cache-Control": "no-store"})

    async def text(self) -> bytes:
        """Return the metrics of all workers in Prometheus' text format."""
        from kernel.ext.telemetry.prometheus import merged  # noqa: PLC0415  # for the first scrape, not for every start

        _, others = await asyncio.gather(self._refresh(), self._others())
        return merged([self._own(), *others])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer the other workers, if there are any."""
        if self._socket is None or not hasattr(asyncio, "start_unix_server"):
            yield
            return
        server = await asyncio.start_unix_server(self._send_own, self._socket)
        try:
            yield
        finally:
            server.close()
            self._socket.unlink(missing_ok=True)

    async def _send_own(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(pickle.dumps(self._own()))
            await writer.drain()
        writer.close()
        await self._refresh()  # For the next scrape: the other worker does not wait for this process's database.

    async def _others(self) -> list[list["Metric"]]:
        if self._socket is None:
            return []
        sockets = [path for path in self._socket.parent.glob("*.sock") if path != self._socket]
        return [found for found in await asyncio.gather(*map(_read, sockets)) if found is not None]

    def _own(self) -> list["Metric"]:
        """Return what this process counts; where there are several, with a label that names the process."""
        from kernel.ext.telemetry.prometheus import families  # noqa: PLC0415  # for the first scrape

        found = list(families(self._kernel, self._meter))
        if self._socket is not None:
            for family in found:
                family.samples = [
                    one._replace(labels={**one.labels, "worker": str(os.getpid())}) for one in family.samples
                ]
        return found

    async def _refresh(self) -> None:
        if time.monotonic() - self._refreshed_at < _REFRESH_SECONDS:
            return
        self._refreshed_at = time.monotonic()
        await asyncio.gather(*map(_refresh, self._kernel.builder.gauges))


async def _refresh(source: GaugeSource) -> None:
    """Refresh within the deadline: a scrape reports the other metrics while a database is down."""
    try:
        async with asyncio.timeout(_WAIT_SECONDS):
            await source.refresh()
    except Exception as error:  # noqa: BLE001  # any failure costs these gauges alone
        _log.warning("gauges cannot be refreshed", source=type(source).__name__, reason=repr(error))


async def _read(socket: Path) -> "list[Metric] | None":
    """Return what another worker counts, or None if it has ended or does not answer in time."""
    try:
        async with asyncio.timeout(_WAIT_SECONDS):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                received = await reader.read()
            finally:
                writer.close()
        found: list[Metric] = pickle.loads(received)  # noqa: S301  # from a worker, through a folder of our user alone
    except (OSError, TimeoutError, EOFError, pickle.UnpicklingError):
        return None
    return found
