"""Count the connections of the database pools."""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from kernel.database import AsyncDBPool, place_of
from kernel.database.engines import ConnectionPool
from kernel.gauges import Gauge


class Usage(NamedTuple):
    """The connections of a pool: in use, idle and allowed, how many callers wait, and how many are above its size."""

    in_use: int = 0
    idle: int = 0
    limit: int = 0
    waiting: int = 0
    overflow: int = 0


def usage(pool: AsyncDBPool) -> dict[str, Usage]:
    """Return the usage of the pools by database, with those of its readers and its writer added up."""
    found: dict[str, Usage] = defaultdict(Usage)
    for (url, _), engine in pool.engines.items():
        if isinstance(connections := engine.sync_engine.pool, ConnectionPool):
            in_use, *others = connections.usage()
            numbers = (in_use, *others, max(0, in_use - connections.size()))
            found[place_of(url)] = Usage(*map(sum, zip(found[place_of(url)], numbers, strict=True)))
    return found


def database_connections(pool: AsyncDBPool) -> Iterator[Gauge]:
    """Yield the numbers of connections by database."""
    pools = usage(pool)
    states = [((name, state), getattr(one, state)) for name, one in pools.items() for state in ("in_use", "idle")]
    yield Gauge("database_pool_connections", "Open connections.", ("database", "state"), states)
    for number, text in (
        ("limit", "The most connections that may be open."),
        ("waiting", "Callers that wait for a connection."),
        ("overflow", "Connections in use above the pool's size."),
    ):
        rows = [((name,), getattr(one, number)) for name, one in pools.items()]
        yield Gauge(f"database_pool_{number}", text, ("database",), rows)
