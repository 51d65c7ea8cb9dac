"""Logs: one line for each event, with the id of its request; readable in LOCAL, JSON elsewhere."""

import logging
import sys
import warnings
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from kernel.settings import LogSettings

_warnings = structlog.get_logger("py.warnings")

# The text of a warning may contain data of a caller.
_MOST_TEXT = 500
# Loggers that are kept to problems. SQLAlchemy logs each use of a connection under the class of the pool.
_CHATTY = (
    "aiosqlite", "alembic", "asyncio", "filelock", "hpack", "httpcore2", "httpx2", "kernel.database.engines", "PIL",
    "python_multipart", "watchfiles"
)  # fmt: skip
_SECRET_NAMES = ("password", "secret", "token", "authorization", "cookie", "api_key")


def configure_logging(settings: LogSettings) -> None:
    """Send all events, also those of the standard library's loggers, to standard output in one format."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _place,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _mask_secrets,
    ]
    as_json = settings.format == "json"
    rendering: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=True)]
        if as_json
        # Plain tracebacks: the pretty ones show local variables, secrets included, and take seconds.
        else [
            structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level)
    warnings.showwarning = _Warnings(warnings.showwarning)
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # kernel.web.middleware logs it with its id
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)
    for noisy in ("aio_pika", "aiormq", "nats"):  # while a broker is down they log many errors a second
        logging.getLogger(noisy).setLevel(logging.CRITICAL)


class _Warnings:
    """Writes the warnings of libraries to the log, one for each place in the code.

    Python writes them to standard error, and again for each text: one image made a library write 116,398 lines.
    """

    def __init__(self, to_file: Any) -> None:
        """`to_file` writes the warnings whose caller names a file."""
        self._to_file = to_file
        self._seen: set[tuple[str, int, type[Warning]]] = set()

    def __call__(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if file is not None:
            self._to_file(message, category, filename, lineno, file, line)
        elif (place := (filename, lineno, category)) not in self._seen:
            self._seen.add(place)
            _warnings.warning(str(message)[:_MOST_TEXT], category=category.__name__, at=f"{filename}:{lineno}")


def _place(_logger: Any, _method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Reduce the place in a trace (W3C Trace Context) to the trace's id, and drop an empty module."""
    if (traceparent := entry.pop("traceparent", None)) is not None:
        entry["trace_id"] = traceparent[3:35]
    if entry.get("module", "") is None:
        del entry["module"]
    return entry


def _mask_secrets(_logger: Any, _method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in entry:
        if any(part in name.lower() for part in _SECRET_NAMES):
            entry[name] = "**********"
    return entry
