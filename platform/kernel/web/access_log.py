"""The access log: a line for each request, more than all other logging together, and so written in the plainest way."""

import sys
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as quoted

import structlog
from starlette.types import Scope

from kernel.settings import LogSettings
from kernel.web.context import find_context

_log = structlog.get_logger("kernel.access")

# Of a longer path the beginning. A line of at most 4,096 bytes (of a character this may take twelve) is written whole
# or not at all, so that the lines of several workers on one pipe do not get into each other.
_MOST_PATH = 256


class _Lines:
    """How the line is written. The process decides, once, when its logging is set up."""

    are_json = False
    are_wanted = True


def configure_access_log(settings: LogSettings) -> None:
    """Where logs are JSON, write these lines to standard output without the way through structlog and logging.

    They are the same to the letter as theirs would be; theirs takes longer than all the rest of a small request.
    """
    _Lines.are_json = settings.format == "json"
    _Lines.are_wanted = settings.level in {"DEBUG", "INFO"}


def log_request(scope: Scope, status: int, seconds: float, traceparent: str | None) -> None:
    """Write the line of a request that took so long and was answered with `status`."""
    if not _Lines.are_wanted:
        return
    context = find_context(scope)
    request_id, module = ("", None) if context is None else (context.request_id, context.module)
    method, path, client = scope["method"], scope["path"], (scope.get("client") or ("-",))[0]
    path = shortened(path)
    duration_ms = round(seconds * 1000, 2)
    if not _Lines.are_json:
        _log.info("request", method=method, path=path, status=status, duration_ms=duration_ms, client=client)
        return
    where = f'"module": {quoted(module.name)}, ' if module is not None else ""
    if traceparent is not None:
        where += f'"trace_id": "{traceparent[3:35]}", '
    moment = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    line = (
        f'{{"method": {quoted(method)}, "path": {quoted(path)}, "status": {status}, "duration_ms": {duration_ms}, '
        f'"client": {quoted(client)}, "event": "request", "request_id": {quoted(request_id)}, '
        f'{where}"level": "info", "logger": "kernel.access", "timestamp": "{moment}"}}\n'
    )
    try:
        sys.stdout.write(line)
        sys.stdout.flush()
    except OSError:
        return  # nobody reads the log any more; that is no reason not to answer


def shortened(text: str) -> str:
    """Return the beginning of a text that a caller chose, short enough for a log line."""
    return text if len(text) <= _MOST_PATH else f"{text[:_MOST_PATH]}..."
