"""The watchdog distinguishes a database that stops answering from a slow statement."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.engine import URL

from kernel.database import AsyncDBPool, DatabaseUnavailable
from kernel.ext.pool import watchdog
from kernel.settings import DatabaseConfig
from tests.core.waiting import until_running
from tests.faults.proxy import FaultProxy

Extend = Callable[..., AsyncDBPool]


@pytest.fixture(autouse=True)
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the watchdog ask sooner. The time for an answer is that of production."""
    monkeypatch.setattr(watchdog, "_LATE_SECONDS", 0.2)


@pytest_asyncio.fixture
async def proxy(new_database: Callable[[str], URL]) -> AsyncIterator[FaultProxy]:
    url = new_database("pulse")
    async with FaultProxy(f"{url.query['host']}/.s.PGSQL.{url.port or 5432}") as proxy:
        yield proxy


@pytest_asyncio.fixture
async def pool(proxy: FaultProxy, new_database: Callable[[str], URL], extend: Extend) -> AsyncIterator[AsyncDBPool]:
    """Provide a pool with the default timeouts: 30 s for a statement."""
    url = new_database("pulse")
    behind = f"postgresql://{url.username}@127.0.0.1:{proxy.port}/{url.database}"
    pool = extend(AsyncDBPool(DatabaseConfig(url=behind), {}, Path(), []))  # type: ignore[arg-type]  # pydantic makes it secret
    yield pool
    await pool.close()


@pytest_asyncio.fixture
async def near(new_database: Callable[[str], URL], extend: Extend) -> AsyncIterator[AsyncDBPool]:
    """Return a pool that connects to the server itself: a proxy in this process would be late with it."""
    url = new_database("pulse").render_as_string(hide_password=False)
    config = DatabaseConfig(url=url, connect_timeout_seconds=0.5)  # type: ignore[arg-type]  # as above
    pool = extend(AsyncDBPool(config, {}, Path(), []))
    yield pool
    await pool.close()


async def sleep(pool: AsyncDBPool, seconds: float) -> None:
    async with pool.database(None).transaction() as session:
        await session.execute(text(f"SELECT pg_sleep({seconds})"))


async def test_a_slow_statement_is_not_ended(pool: AsyncDBPool) -> None:
    await asyncio.gather(*(sleep(pool, 1.5) for _ in range(3)))


@pytest.mark.slow
async def test_a_late_event_loop_does_not_count_as_a_silent_database(near: AsyncDBPool) -> None:
    under_way = asyncio.create_task(sleep(near, 5))
    await until_running(near.database(None).placement.url, 1)
    began_at = time.monotonic()
    while time.monotonic() - began_at < 4.5:
        await asyncio.sleep(0)  # Too short to connect.
        time.sleep(0.6)  # noqa: ASYNC251  # that is the fault
    await under_way


async def test_a_connect_that_this_process_delayed_ends_no_other_use(near: AsyncDBPool) -> None:
    under_way = asyncio.create_task(sleep(near, 1.5))
    await until_running(near.database(None).placement.url, 1)
    another = asyncio.create_task(sleep(near, 0))
    await asyncio.sleep(0)  # It has begun to connect.
    time.sleep(0.7)  # noqa: ASYNC251  # longer than it may take to connect
    with pytest.raises(DatabaseUnavailable, match="TimeoutError"):
        await another
    await under_way


async def test_all_statements_end_when_the_database_is_silent(proxy: FaultProxy, pool: AsyncDBPool) -> None:
    under_way = [asyncio.create_task(sleep(pool, 20)) for _ in range(3)]
    await until_running(pool.database(None).placement.url, 3)
    began_at = time.monotonic()
    await proxy.set("swallow")
    found = await asyncio.gather(*under_way, return_exceptions=True)
    assert [type(one) for one in found] == [DatabaseUnavailable] * 3
    assert time.monotonic() - began_at < 3


@pytest.mark.alone
async def test_while_the_database_is_silent_requests_fail_at_once(proxy: FaultProxy, pool: AsyncDBPool) -> None:
    await sleep(pool, 0)
    await proxy.set("swallow")
    with pytest.raises(DatabaseUnavailable):
        await sleep(pool, 0)
    began_at = time.monotonic()
    with pytest.raises(DatabaseUnavailable, match="asked until it does"):
        await sleep(pool, 0)
    assert time.monotonic() - began_at < 0.1
    await proxy.set("pass")
    async with asyncio.timeout(1):
        while True:
            try:
                await sleep(pool, 0)
            except DatabaseUnavailable:
                await asyncio.sleep(0.01)
            else:
                break
