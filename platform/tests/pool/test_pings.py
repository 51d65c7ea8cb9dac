"""A connection that answers its ping is used again."""

from collections.abc import Callable

from sqlalchemy import text
from sqlalchemy.engine import URL

from kernel.database import AsyncDBPool
from kernel.settings import DatabaseConfig


async def test_a_connection_that_answers_its_ping_is_used_again(
    new_database: Callable[[str], URL], extend: Callable[[AsyncDBPool], AsyncDBPool]
) -> None:
    pool = extend(AsyncDBPool(DatabaseConfig(url=new_database("pings").render_as_string(hide_password=False))))

    async def backend() -> int:
        async with pool.database().read() as session:
            return int(await session.scalar(text("SELECT pg_backend_pid()")) or 0)

    assert len({await backend() for _ in range(3)}) == 1
    await pool.close()
