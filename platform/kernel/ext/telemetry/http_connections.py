"""Count the connections of the HTTP client. httpx2 has no public name for them."""

from collections.abc import Iterator
from typing import Any

from kernel.gauges import Gauge
from kernel.http_client import HttpxRestClientPool


def http_connections(client: HttpxRestClientPool) -> Iterator[Gauge]:
    """Yield the number of connections to upstreams, by state."""
    pool: Any = getattr(client.connections, "_pool", None)
    found = list(pool.connections) if pool is not None else []
    idle = sum(connection.is_idle() for connection in found)
    rows = [(("idle",), float(idle)), (("in_use",), float(len(found) - idle))]
    yield Gauge("http_client_connections", "Connections to upstreams.", ("state",), rows)
