"""Warn at the start if the pools of all workers may open more connections than the database server allows."""

from collections import defaultdict
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from kernel.ext.server.settings import ServerProcessSettings

if TYPE_CHECKING:
    from kernel.runtime import Kernel

_log = structlog.get_logger("kernel.ext.server")

# Without those reserved for superusers and, since PostgreSQL 16, for pg_use_reserved_connections.
_ALLOWED = text(
    "SELECT sum(CASE name WHEN 'max_connections' THEN setting::int ELSE -setting::int END)::int FROM pg_settings "
    "WHERE name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections')"
)


async def report_connections(kernel: "Kernel") -> None:
    """Warn of each PostgreSQL server that allows fewer connections than the pools of all workers may open.

    It is not an error: this process knows neither the number of instances nor whether a pooler is in between.
    """
    workers = kernel.settings.group(ServerProcessSettings).workers
    for (host, port), engines in _by_server(kernel).items():
        wanted = sum(_most(kernel, url) for url in engines) * workers
        try:
            async with next(iter(engines.values())).connect() as connection:
                allowed = (await connection.execute(_ALLOWED)).scalar_one()
        except Exception as error:  # noqa: BLE001  # the readiness check reports a database that is down
            _log.warning(
                "cannot read the connection limit of the database server",
                server=f"{host}:{port}",
                reason=repr(error),
            )
            continue
        if wanted > allowed:
            _log.warning(
                f"the workers of this instance may open {wanted} connections to a database server that allows "
                f"{allowed}: lower DATABASE_POOL_SIZE, DATABASE_MAX_OVERFLOW or SERVER_WORKERS, or raise its "
                "max_connections",
                server=f"{host}:{port}",
                workers=workers,
            )


def _by_server(kernel: "Kernel") -> dict[tuple[str, int], dict[URL, AsyncEngine]]:
    """Return the engines of each PostgreSQL server by URL. All databases of a server share its limit."""
    found: dict[tuple[str, int], dict[URL, AsyncEngine]] = defaultdict(dict)
    for module in kernel.modules:
        database = kernel.contexts[module.name].database
        placement = database.placement
        if module.metadata is None or placement.schema is None:
            continue
        for url, engine in ((placement.url, database.writer), (placement.read_url, database.reader)):
            where = str(url.query.get("host", url.host or "localhost"))
            found[where, url.port or 5432].setdefault(url, engine)
    return found


def _most(kernel: "Kernel", url: URL) -> int:
    """Return how many connections one process may open to a database: its pool's, and those of extensions."""
    config = kernel.settings.database
    return config.pool_size + config.max_overflow + kernel.builder.connections.count(url)
