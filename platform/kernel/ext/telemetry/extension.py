"""The extension `telemetry`."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.routing import Route
from starlette.types import Scope

from kernel.ext.telemetry.meter import Meter
from kernel.ext.telemetry.metrics import PATH, Metrics
from kernel.ext.telemetry.settings import TelemetrySettings
from kernel.ext.telemetry.tracing import Tracing, identity
from kernel.extension import ApplicationBuilder, Extension
from kernel.runtime import Kernel


class Telemetry(Extension):
    """Metrics for Prometheus, and traces over OTLP."""

    name = "telemetry"
    packages = (
        "opentelemetry.sdk",
        "prometheus_client",
    )
    settings = (TelemetrySettings,)

    def configure(self, app: ApplicationBuilder) -> None:
        if app.settings.group(TelemetrySettings).metrics:
            meter = Meter()
            app.provide(meter)
            app.observers.append(meter)
        tracing = Tracing.configured(app.settings.application)
        if tracing is not None:
            app.provide(tracing)
            app.tracer = tracing
            app.pool.on_engine.append(tracing.watch)
            app.http.around = tracing.call
            app.fastapi_options["telemetry"] = tracing.of_requests
            app.trace_of = _trace_of

    def assemble(self, kernel: Kernel) -> None:
        if (meter := kernel.find(Meter)) is None:
            return
        metrics = Metrics(kernel, meter)
        kernel.builder.provide(metrics)
        if metrics.is_served:
            kernel.builder.routes.append(Route(PATH, metrics.respond, methods=["GET"]))

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if (tracing := kernel.find(Tracing)) is not None:
                await stack.enter_async_context(tracing.running())
            if (meter := kernel.find(Meter)) is not None:
                await stack.enter_async_context(meter.watching())
                await stack.enter_async_context(kernel.get(Metrics).running())
            yield


def _trace_of(scope: Scope) -> Mapping[str, str] | None:
    """Return the place of a request's span in its trace."""
    telemetry = scope.get("fastapi.telemetry")
    return None if telemetry is None else identity(telemetry.span)
