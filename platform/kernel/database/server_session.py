"""A connection that is a PostgreSQL session of its own, which a pooler in transaction mode does not give.

Migrations keep a lock, a role and a `search_path` in their session, and LISTEN is a state of it. Behind such a pooler
each of these would be left on a server connection that other clients get.
"""

import asyncpg
from sqlalchemy.engine import URL

from kernel.database.errors import FAILURES, reason_of
from kernel.settings import DatabaseConfig

# How often both connections are compared. PgBouncer hands out the server connection that was returned last, or each in
# turn: in the first case two clients meet at once, in the second one client sees several.
_ROUNDS = 5


class NoSession(Exception):
    """The server cannot be reached, or there is a pooler in transaction mode in between; says what to do."""


def place_of(url: URL) -> str:
    """A database's name for people, without a password: `host:port/name`, or the file."""
    if url.get_backend_name() == "sqlite":
        return url.database or ":memory:"
    host = url.host or url.query.get("host") or "localhost"
    return f"{host}:{url.port or 5432}/{url.database}"


def quoted(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


async def connect(url: URL, config: DatabaseConfig) -> asyncpg.Connection:
    """A connection of the driver's that keeps no prepared statements. Raises what the driver raises."""
    _, options = url.get_dialect()().create_connect_args(url)
    of_driver = {name: value for name, value in options.items() if not name.startswith("prepared_statement_")}
    of_driver |= {"timeout": config.connect_timeout_seconds, "command_timeout": config.command_timeout_seconds}
    return await asyncpg.connect(**of_driver | {"statement_cache_size": 0})


async def connect_directly(url: URL, config: DatabaseConfig, variable: str) -> asyncpg.Connection:
    """A connection that is certainly a session of its own; `variable` names the setting that `url` should come from.

    Raises NoSession.
    """
    place, connection, is_session = place_of(url), None, False
    try:
        connection = await connect(url, config)
        is_session = await is_own_session(connection, url, config)
    except FAILURES as error:
        raise NoSession(f"the database {place} cannot be reached: {reason_of(error)}") from error
    finally:
        if connection is not None and not is_session:
            connection.terminate()
    if not is_session:
        raise NoSession(
            f"{place} is a connection pooler in transaction mode, which gives no session: set {variable} to the "
            "address of PostgreSQL itself (or of a pool in session mode)"
        )
    return connection


async def is_own_session(connection: asyncpg.Connection, url: URL, config: DatabaseConfig) -> bool:
    """Return True if a connection to `url` is a session of its own, and not a pooler's in transaction mode."""
    if await _backend(connection) == connection.get_server_pid():
        return True  # PostgreSQL itself told the driver this number; a pooler tells one of its own
    other = await connect(url, config)
    try:
        first, second = await _backend(connection), await _backend(other)
        for _ in range(_ROUNDS):
            seen = [await _backend(connection), await _backend(connection), await _backend(other)]
            if first == second or seen != [first, first, second]:
                return False
        return True
    finally:
        other.terminate()


async def _backend(connection: asyncpg.Connection) -> int:
    async with connection.transaction():  # a pooler keeps one server connection for the whole of it
        return int(await connection.fetchval("SELECT pg_backend_pid()"))
