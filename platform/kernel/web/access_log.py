"""The access log: one line per request, written the cheapest way because it is the largest log."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as quoted

import structlog
from starlette.types import Scope

from kernel.settings import LogSettings
from kernel.web.context import find_context

_log = structlog.get_logger("kernel.access")

# Longer paths are cut. The system writes at most 4,096 bytes to a pipe atomically, and a character takes up to twelve:
# so the lines of several workers do not mix.
_MAX_PATH = 256

AccessLog = Callable[[Scope, int, float, "str | None"], None]
"""Writes the line of a request, given its scope, status, duration in seconds and `traceparent`."""


def access_log_for(settings: LogSettings) -> AccessLog:
    """Return the fastest way to write the access log with these settings."""
    if settings.level not in {"DEBUG", "INFO"}:
        return _write_nothing
    return write_json if settings.format == "json" else write_through_structlog


def write_through_structlog(scope: Scope, status: int, seconds: float, traceparent: str | None) -> None:
    """Log the request like any other event. structlog's context adds the request id, module and trace."""
    path, client = shortened(scope["path"]), _client(scope)
    duration_ms = round(seconds * 1000, 2)
    _log.info("request", method=scope["method"], path=path, status=status, duration_ms=duration_ms, client=client)


def write_json(scope: Scope, status: int, seconds: float, traceparent: str | None) -> None:
    """Write the same line as JSON to standard output, bypassing structlog and logging.

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
        f'"client": {quoted(_client(scope))}, "event": "request", "request_id": {quoted(request_id)}, '
        f'{where}"level": "info", "logger": "kernel.access", "timestamp": "{moment}"}}\n'
    )
    try:
        sys.stdout.write(line)
        sys.stdout.flush()
    except OSError:
        return  # the reader of the log is gone: that must not fail the request


def shortened(text: str) -> str:
    """Return the beginning of a text of the caller, short enough for a log line."""
    return text if len(text) <= _MAX_PATH else f"{text[:_MAX_PATH]}..."


def _client(scope: Scope) -> str:
    client: str = (scope.get("client") or ("-",))[0]
    return client


def _write_nothing(_scope: Scope, _status: int, _seconds: float, _traceparent: str | None) -> None:
    """Write nothing, because the log level is above INFO."""
