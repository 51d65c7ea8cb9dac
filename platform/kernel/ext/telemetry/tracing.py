"""Traces of requests, statements, HTTP calls and messages, which OpenTelemetry exports as OTLP over HTTP (OTEL_*).

FastAPI makes the spans of requests, this module the others. Without an endpoint it does not import the SDK.
"""

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.contextvars import bound_contextvars

from kernel.database.runner import AROUND
from kernel.settings import ApplicationSettings, Fault, SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

# W3C Trace Context without baggage: that comes from callers, and must not reach upstreams.
_propagator = TraceContextTextMapPropagator()
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
# How long the stop waits until the collector has taken the remaining spans.
_FLUSH_SECONDS = 1.5
# Probes and scrapes request these every few seconds.
_NOT_TRACED = ("/health", "/metrics")


class Tracing:
    """Makes the spans of one application. The exporter has a thread and a bounded queue, and drops the excess."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self._tracer: Tracer = provider.get_tracer("kernel")

    @classmethod
    def configured(cls, application: ApplicationSettings) -> "Tracing | None":
        """Return what OpenTelemetry's variables describe, or None without an endpoint. Raises SettingsError."""
        is_off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        if is_off or os.environ.get("OTEL_TRACES_EXPORTER") == "none" or not any(map(os.environ.get, _ENDPOINTS)):
            return None
        for name in _PROTOCOLS:
            if os.environ.get(name, "") not in {"", "http/protobuf"}:
                raise SettingsError([Fault(name, "must be http/protobuf, the only exporter that is installed")])
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        own = {"service.version": application.version, "service.instance.id": f"{socket.gethostname()}:{os.getpid()}"}
        if "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
            own["service.name"] = os.environ.get("OTEL_SERVICE_NAME") or application.title
        provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    @property
    def of_requests(self) -> TelemetryConfig:
        """Return the configuration of FastAPI's own telemetry."""
        return {
            "tracer_provider": self._provider,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": lambda scope: scope["path"].startswith(_NOT_TRACED),
        }

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """At the end, export the remaining spans. A collector that hangs does not delay the stop for long."""
        try:
            yield
        finally:
            ending = threading.Thread(target=self._provider.shutdown, daemon=True)
            ending.start()
            await asyncio.to_thread(ending.join, _FLUSH_SECONDS)

    def watch(self, engine: AsyncEngine) -> None:
        """Make a span for each statement that is part of a trace, with its text and without its values."""
        system = engine.dialect.name
        engine.sync_engine.update_execution_options(**{AROUND: partial(self._statement, system)})

        def before(_connection: Any, _cursor: Any, text: str, _values: Any, context: Any, _many: bool) -> None:
            if trace.get_current_span().is_recording():
                context.kernel_span = self._tracer.start_span(
                    _verb(text), kind=SpanKind.CLIENT, attributes=_of_statement(text, system)
                )

        def after(_connection: Any, _cursor: Any, _text: str, _values: Any, context: Any, _many: bool) -> None:
            if (span := getattr(context, "kernel_span", None)) is not None:
                span.end()

        def failed(context: Any) -> None:
            if (span := getattr(context.execution_context, "kernel_span", None)) is not None:
                _fail(span, context.original_exception)
                span.end()

        event.listen(engine.sync_engine, "before_cursor_execute", before)
        event.listen(engine.sync_engine, "after_cursor_execute", after)
        event.listen(
            engine.sync_engine, "handle_error", failed, insert=True
        )  # before the kernel's handler, which raises

    async def call(self, request: Any, send: Callable[[], Awaitable[Any]]) -> Any:
        """Send an HTTP request (httpx2's) as part of the current trace, if there is one."""
        if not trace.get_current_span().is_recording():
            _propagator.inject(request.headers)
            return await send()
        url = request.url
        attributes = {
            "http.request.method": request.method,
            "server.address": url.host,
            "url.full": f"{url.scheme}://{url.netloc.decode()}{url.path}",  # a query may hold secrets
        }
        with self._span(request.method, SpanKind.CLIENT, attributes) as span:
            _propagator.inject(request.headers)
            response = await send()
            span.set_attribute("http.response.status_code", response.status_code)
            if response.status_code >= 400:
                span.set_status(StatusCode.ERROR)
            return response

    @contextmanager
    def span(
        self, name: str, kind: Literal["consumer", "producer"], attributes: Mapping[str, str], parent: Mapping[str, str]
    ) -> Iterator[None]:
        """Record the block as a span below `parent`, and bind its place in the trace to the log lines of the block."""
        above = _propagator.extract(parent, context=Context())
        with self._span(name, SpanKind[kind.upper()], attributes, above) as span, bound_contextvars(**identity(span)):
            yield

    def _statement(self, system: str, text: str) -> AbstractContextManager[object]:
        """Return a span for a statement that SQLAlchemy's listeners do not see, if it is part of a trace."""
        if not trace.get_current_span().is_recording():
            return nullcontext()
        return self._span(_verb(text), SpanKind.CLIENT, _of_statement(text, system))

    @contextmanager
    def _span(
        self, name: str, kind: SpanKind, attributes: Mapping[str, str], parent: Context | None = None
    ) -> Iterator[Span]:
        span = self._tracer.start_span(name, parent, kind, attributes)
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield span
        except BaseException as error:
            _fail(span, error)
            raise
        finally:
            span.end()


def identity(span: Span) -> dict[str, str]:
    """Return the span's place in its trace, for log lines and outgoing calls (W3C Trace Context)."""
    of = span.get_span_context()
    return {"traceparent": f"00-{of.trace_id:032x}-{of.span_id:016x}-{of.trace_flags:02x}"}


def _fail(span: Span, error: BaseException) -> None:
    """Mark a span as failed, with the type of the error alone: its text may contain values of a caller."""
    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(StatusCode.ERROR)


def _verb(text: str) -> str:
    return text.split(maxsplit=1)[0].upper() if text.strip() else "SQL"


def _of_statement(text: str, system: str) -> dict[str, str]:
    return {"db.system.name": system, "db.operation.name": _verb(text), "db.query.text": text}
