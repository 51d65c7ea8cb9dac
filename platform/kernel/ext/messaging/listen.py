"""Listen to NOTIFY of PostgreSQL on a connection of its own, which no pool shares."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import asyncpg
import structlog
from sqlalchemy.engine import URL

from kernel.database.server_session import NoSession, connect_directly
from kernel.settings import DatabaseConfig

_log = structlog.get_logger("kernel.database")
# Seconds between test queries, which find connections that a firewall has dropped.
_SIGN_OF_LIFE_SECONDS = 30


async def listen(
    url: URL, config: DatabaseConfig, channel: str, heard: Callable[[str | None], None], *, pause_seconds: float
) -> None:
    """Call `heard` with each notification; with "" when a connection is made, and None when it is lost.

    A lost connection is replaced after the pause. Notifications in between are lost, so the caller must poll, too.
    """
    warned = None
    while True:
        try:
            connection = await connect_directly(url, config, "DATABASE_DIRECT_URL (or MESSAGING_LISTEN=false)")
            warned = None
            try:
                await _listen(connection, channel, heard, config.connect_timeout_seconds)
            finally:
                heard(None)
                connection.terminate()
        except NoSession as error:
            if str(error) != warned:  # once, as this may last
                _log.warning("not listening", channel=channel, reason=str(error))
            warned = str(error)
        except Exception as error:  # noqa: BLE001  # also what asyncpg takes for its own mistakes: see kernel/ext/fast/driver.py
            _log.warning("not listening", channel=channel, reason=f"{type(error).__name__}: {error}")
        await asyncio.sleep(pause_seconds)


async def _listen(
    connection: asyncpg.Connection, channel: str, heard: Callable[[str | None], None], answer_seconds: float
) -> None:
    """Return when the connection has ended."""
    is_over = asyncio.Event()
    connection.add_termination_listener(lambda _: is_over.set())
    await connection.add_listener(channel, lambda _connection, _pid, _channel, payload: heard(str(payload)))
    heard("")  # look for earlier messages at once
    while not is_over.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(_SIGN_OF_LIFE_SECONDS):
                await is_over.wait()
                return
        await connection.execute("SELECT 1", timeout=answer_seconds)
