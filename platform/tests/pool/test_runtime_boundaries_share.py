"""A module holds at most its share of a pool that it shares with others."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from kernel.database import AsyncDBPool, Database, DatabaseUnavailable
from kernel.database.session import DatabaseSession
from kernel.ext.pool.errors import PoolShareExhausted
from kernel.ext.pool.quota import FairSemaphore
from kernel.settings import DatabaseConfig
from tests.core.project import MODELS, running_project, write_migration
from tests.core.waiting import end_connections, until_running, until_true

Extend = Callable[..., AsyncDBPool]

SLEEPY = """
from fastapi import APIRouter
from sqlalchemy import text
from kernel import Session

router = APIRouter()

@router.get("/sleep")
async def sleep(session: Session) -> None:
    await session.execute(text("SELECT pg_sleep(0.4)"))

@router.get("/quick")
async def quick(session: Session) -> int:
    return int(await session.scalar(text("SELECT 1")))
"""


async def hold(database: Database, seconds: float, *, directly: bool) -> None:
    """Use one connection for a while."""
    statement = sa.select(sa.func.pg_sleep(seconds).cast(sa.Text))
    async with database.transaction() as session:
        assert isinstance(session, DatabaseSession)
        await (session.rows(statement) if directly else session.execute(statement))


def free(database: Database) -> int:
    """Return how many more connections the module may take."""
    share = share_of(database)
    return share.limit - share.in_use


def waiting_for_share(database: Database) -> int:
    """Return how many callers wait because the module has all connections that it may have."""
    return share_of(database).waiting


def share_of(database: Database) -> FairSemaphore:
    quota: Any = database.writer.sync_engine.quota  # type: ignore[attr-defined]  # of our engines
    assert isinstance(quota.share, FairSemaphore)
    return quota.share


@pytest.fixture(scope="module")
def url(new_database: Callable[[str], URL]) -> URL:
    return new_database("share")


@pytest.fixture
async def pool(url: URL, extend: Extend) -> AsyncIterator[AsyncDBPool]:
    """Provide a pool of 3 + 2 connections, of which a module may hold 3."""
    config = DatabaseConfig(url=str(url), pool_size=3, max_overflow=2)
    pool = extend(AsyncDBPool(config, {}, Path("/"), ["events", "images"]), pool_share_timeout_seconds=0.3)
    yield pool
    await pool.close()


@pytest.mark.alone
@pytest.mark.parametrize("directly", [True, False])
async def test_above_its_share_a_module_waits_briefly_and_another_does_not(pool: AsyncDBPool, directly: bool) -> None:
    events, images = pool.database("events"), pool.database("images")
    flood = [asyncio.create_task(hold(events, 1, directly=directly)) for _ in range(6)]
    await until_true(lambda: free(events) == 0)
    started = time.monotonic()
    await hold(images, 0, directly=directly)
    assert time.monotonic() - started < 0.15, "a connection is always left for another module"
    results = await asyncio.gather(*flood, return_exceptions=True)
    refused = [result for result in results if result is not None]
    assert results[:3] == [None] * 3
    assert len(refused) == 3
    assert all(isinstance(one, PoolShareExhausted) and "events" in str(one) for one in refused)
    assert (free(events), free(images)) == (3, 3)


async def test_waiting_callers_get_connections_in_their_order(url: URL, extend: Extend) -> None:
    config = DatabaseConfig(url=str(url), pool_size=3, max_overflow=2)
    pool = extend(AsyncDBPool(config, {}, Path("/"), ["events", "images"]), pool_share_timeout_seconds=30)
    events, served = pool.database("events"), list[int]()
    ends = [asyncio.Event() for _ in range(18)]

    async def ask(number: int) -> None:
        async with events.transaction() as session:
            assert isinstance(session, DatabaseSession)
            await (session.rows(sa.select(sa.literal(1))) if number % 2 else session.execute(sa.select(1)))
            served.append(number)
            await ends[number].wait()

    tasks = []
    for number in range(18):
        tasks.append(asyncio.create_task(ask(number)))
        await asyncio.sleep(0)
    for number in range(18):
        await until_true(lambda: len(served) == min(sum(end.is_set() for end in ends) + 3, 18))
        ends[served[number]].set()
    await asyncio.gather(*tasks)
    assert sorted(served[:3]) == [0, 1, 2]
    assert served[3:] == list(range(3, 18))
    await pool.close()


@pytest.mark.parametrize("directly", [True, False])
async def test_every_end_of_a_session_frees_its_share(pool: AsyncDBPool, url: URL, directly: bool) -> None:
    events = pool.database("events")

    async def fails() -> None:
        async with events.transaction() as session:
            statement = sa.text("SELECT 1/0") if not directly else sa.select(sa.literal_column("1/0"))
            assert isinstance(session, DatabaseSession)
            await (session.rows(statement) if directly else session.execute(statement))

    async def becomes() -> None:
        async with events.transaction() as session:  # On the driver first, then through SQLAlchemy.
            await session.rows(sa.select(sa.literal_column("1")))
            await session.execute(sa.text("SELECT 1"))

    for _ in range(4):
        with pytest.raises(Exception, match="division"):
            await fails()
        await becomes()
        holding = [asyncio.create_task(hold(events, 30, directly=directly)) for _ in range(3)]
        await until_running(url, 3)
        waiting = asyncio.create_task(hold(events, 30, directly=directly))
        await until_true(lambda: waiting_for_share(events) == 1)
        waiting.cancel()
        holding[0].cancel()
        await asyncio.to_thread(end_connections, url)
        for task in (waiting, *holding):
            with suppress(asyncio.CancelledError, DatabaseUnavailable):
                await task
        assert free(events) == 3
        assert pool.database("images").writer.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]


@pytest.mark.integration
@pytest.mark.parametrize("directly", [True, False])
async def test_a_database_that_is_down_frees_the_share(directly: bool, extend: Extend) -> None:
    config = DatabaseConfig(url="postgresql://u:p@127.0.0.1:1/none", pool_size=1, max_overflow=1)
    pool = extend(AsyncDBPool(config, {}, Path("/"), ["events", "images"]))
    for _ in range(5):
        with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
            await hold(pool.database("events"), 0, directly=directly)
    assert free(pool.database("events")) == 1
    await pool.close()


async def test_a_module_alone_in_a_pool_may_use_all_of_it(url: URL, extend: Extend) -> None:
    config = DatabaseConfig(url=str(url), pool_size=3, max_overflow=2)
    for with_tables, limit in ((["events"], None), (["events", "images"], 3), ([], None)):
        pool = extend(AsyncDBPool(config, {}, Path("/"), with_tables))
        quota: Any = getattr(pool.database("events").writer.sync_engine, "quota", None)
        assert (quota and quota.share and quota.share.limit) == limit, with_tables
        await pool.close()


@pytest.mark.slow
async def test_a_flooded_module_gets_503_and_others_stay_fast(
    tmp_path: Path, new_database: Callable[[str], URL]
) -> None:
    files = {
        f"{name}/{part}.py": text
        for name in ("busy", "calm")
        for part, text in (("models", MODELS), ("router", SLEEPY))
    }
    for name in ("busy", "calm"):
        write_migration(tmp_path, name)
    variables = {
        "DATABASE_URL": str(new_database("flood")),
        "DATABASE_ROLE_PER_MODULE": "true",
        "DATABASE_POOL_SHARE_TIMEOUT_SECONDS": "0.5",
    }

    async with running_project(tmp_path, files, variables) as (app, client):

        async def worst() -> float:
            """Return the 99th percentile of calm's durations, in seconds."""
            times = []
            for _ in range(100):
                started = time.perf_counter()
                assert (await client.get("/api/v1/calm/quick")).status_code == 200
                times.append(time.perf_counter() - started)
                await asyncio.sleep(0.005)
            return sorted(times)[98]

        await worst()
        unloaded = await worst()
        flood: list[asyncio.Task[httpx2.Response]] = [
            asyncio.create_task(client.get("/api/v1/busy/sleep")) for _ in range(60)
        ]
        await until_true(lambda: free(app.kernel.pool.database("busy")) == 0)
        loaded = await worst()
        answers = await asyncio.gather(*flood)
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert 9 <= 60 - len(refused) <= 18, "9 of 15 connections, for as many turns as fit into the wait"
    assert all("share" in answer.json()["detail"] and answer.headers["retry-after"] == "1" for answer in refused)
    # Requests that do not wait for the flooded module's connections still share a processor with it.
    assert loaded < unloaded + 0.1, f"p99 {unloaded * 1000:.1f} ms unloaded, {loaded * 1000:.1f} ms beside the flood"
