"""Wait for an event that no object in this process announces."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy.engine import URL

from kernel.testing import query


async def until(look: Callable[[], Awaitable[object]], seconds: float = 30) -> Any:
    """Return the first result of `look` that is true. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not (seen := await look()):  # noqa: ASYNC110  # what changes is in another process
            await asyncio.sleep(0.02)
    return seen


async def until_true(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait for a condition of this process, or of a file. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # no event announces it
            await asyncio.sleep(0.02)


async def until_running(url: URL, count: int, part: str = "pg_sleep") -> None:
    """Wait until this number of statements with this text run in a PostgreSQL database. Raises TimeoutError."""
    statement = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' "
        f"AND pid <> pg_backend_pid() AND query LIKE '%{part}%'"
    )

    async def running() -> bool:
        return int(await asyncio.to_thread(query, url, statement)) >= count

    await until(running)


def end_connections(url: URL) -> int:
    """End all other connections to a PostgreSQL database, wait until they have ended, and return their number.

    A separate process does it, so that the event loop of the test gets no information meanwhile.
    """
    others = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    ended = query(
        url, f"SELECT count(nullif(pg_terminate_backend(pid, 10000), false)) FROM pg_stat_activity WHERE {others}"
    )
    return int(ended)


async def until_driver_knows(pool: Any) -> None:
    """Wait until the driver knows the end of all idle connections of a pool of the extension `pool`."""
    await until_true(lambda: all(entry.driver_connection.is_closed() for entry in pool._pool.queue))
