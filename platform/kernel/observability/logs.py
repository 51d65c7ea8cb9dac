"""Logs: one line an event, for people in LOCAL and as JSON elsewhere, each with the id of its request."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from kernel.settings import LogSettings

_SECRET_NAMES = ("password", "secret", "token", "authorization", "cookie", "api_key")


def configure_logging(settings: LogSettings) -> None:
    """Send everything, the standard library's loggers included, to standard output in one format."""
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
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # the shell writes that line, with the request's id
    for chatty in (
        "aiosqlite",
        "alembic",
        "asyncio",
        "filelock",
        "PIL",
        "httpcore2",
        "httpx2",
        "hpack",
        "watchfiles",
        "python_multipart",
        "kernel.database.bounded_pool",
    ):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    for anxious in ("aio_pika", "aiormq", "nats"):  # a broker that is gone is an error to them, many times a second
        logging.getLogger(anxious).setLevel(logging.CRITICAL)


def _place(_logger: Any, _method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Of where in a trace (W3C Trace Context) only its id; of the module nothing where there is none."""
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
