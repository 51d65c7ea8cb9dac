"""Readiness asks the database outside a full pool, to distinguish a busy pool from a database that is down."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from kernel.application import create_app
from kernel.database import AsyncDBPool, Database, DatabaseUnavailable
from kernel.settings import DatabaseConfig
from kernel.testing import settings_for
from tests.core.waiting import until_running
from tests.faults.proxy import FaultProxy

Extend = Callable[..., AsyncDBPool]


async def sleep(database: Database, seconds: float) -> None:
    async with database.transaction() as session:
        await session.execute(text(f"SELECT pg_sleep({seconds})"))


async def test_a_busy_pool_does_not_hide_a_database_that_refuses(
    new_database: Callable[[str], URL], extend: Extend
) -> None:
    url = new_database("refusing")
    async with FaultProxy(f"{url.query['host']}/.s.PGSQL.{url.port or 5432}") as proxy:
        behind = f"postgresql://{url.username}@127.0.0.1:{proxy.port}/{url.database}"
        config = DatabaseConfig(url=behind, pool_size=1, max_overflow=0)  # type: ignore[arg-type]  # pydantic's part
        database = extend(AsyncDBPool(config)).database()
        with suppress(DatabaseUnavailable):  # The transaction has lost its connection, and ends with that error.
            async with database.transaction() as session:
                await session.execute(text("SELECT 1"))
                await proxy.set("refuse")
                [found] = await asyncio.gather(database.check(), return_exceptions=True)
        assert isinstance(found, DatabaseUnavailable)
        assert "cannot be reached" in str(found)


@pytest.mark.integration
@pytest.mark.alone
async def test_a_busy_pool_is_ready_until_the_database_is_silent(
    root: Path, tmp_path: Path, migrated_postgresql: URL
) -> None:
    url = migrated_postgresql
    async with FaultProxy(f"{url.query['host']}/.s.PGSQL.{url.port or 5432}") as proxy:
        variables = {
            "DATABASE_URL": f"postgresql://{url.username}@127.0.0.1:{proxy.port}/{url.database}",
            "DATABASE_POOL_SIZE": "2",
            "DATABASE_MAX_OVERFLOW": "0",
            "DATABASE_POOL_SHARE_PERCENT": "100",
            "IMAGES_STORAGE_URL": str(tmp_path / "images"),
            "HEALTH_CACHE_SECONDS": "0",
        }
        app = create_app(settings_for(root, variables))
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client,
        ):
            under_way = [asyncio.create_task(sleep(app.kernel.pool.database("health"), 20)) for _ in range(2)]
            await until_running(url, 2)
            answer = await client.get("/health/ready")
            assert (answer.status_code, answer.json()) == (200, {"status": "ready", "degraded": ["database"]})
            await proxy.set("swallow")
            began_at = time.monotonic()
            answer = await client.get("/health/ready")
            assert (answer.status_code, [one["field"] for one in answer.json()["errors"]]) == (503, ["database"])
            assert time.monotonic() - began_at < 1.5
            ends = await asyncio.gather(*under_way, return_exceptions=True)
            assert [type(end) for end in ends] == [DatabaseUnavailable] * 2
