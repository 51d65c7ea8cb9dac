"""The access log as JSON, written the cheapest way because it is the largest log."""

import sys
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as quoted

from starlette.types import Scope

from kernel.settings import LogSettings
from kernel.web.context import find_context
from kernel.web.middleware import AccessLog, client_of
from kernel.web.problems import shortened


def access_log_for(settings: LogSettings) -> AccessLog | None:
    """Return the fastest way to write the access log with these settings, or None if structlog has to format it."""
    if settings.level not in {"DEBUG", "INFO"}:
        return _write_nothing
    return write_json if settings.format == "json" else None


def write_json(scope: Scope, status: int, seconds: float, traceparent: str | None) -> None:
    """Write the line of `log_request` as JSON to standard output, bypassing structlog and logging.

    structlog takes longer for the line than the application takes for a small request.
    """
    context = find_context(scope)
    request_id, module = ("", None) if context is None else (context.request_id, context.module)
    method, path, duration_ms = scope["method"], shortened(scope["path"]), round(seconds * 1000, 2)
    where = f'"module": {quoted(module.name)}, ' if module is not None else ""
    if traceparent is not None:
        where += f'"trace_id": "{traceparent[3:35]}", '
    moment = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    line = (
        f'{{"method": {quoted(method)}, "path": {quoted(path)}, "status": {status}, "duration_ms": {duration_ms}, '
        f'"client": {quoted(client_of(scope))}, "event": "request", "request_id": {quoted(request_id)}, '
        f'{where}"level": "info", "logger": "kernel.access", "timestamp": "{moment}"}}\n'
    )
    try:
        sys.stdout.write(line)
        sys.stdout.flush()
    except OSError:
        return  # the reader of the log is gone: that must not fail the request


def _write_nothing(_scope: Scope, _status: int, _seconds: float, _traceparent: str | None) -> None:
    """Write nothing, because the log level is above INFO."""
