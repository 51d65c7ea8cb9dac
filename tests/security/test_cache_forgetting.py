"""Invalidation of cached responses: by a message, on all workers, during a read, and while Redis is down."""

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr

from kernel.ext.cache.response_cache import ResponseCache
from kernel.ext.recorder import RecordedResponse
from kernel.ext.store.settings import StoreSettings
from kernel.ext.store.store import SharedStore, StoreUnavailable
from tests.brokers.servers import Redis
from tests.core.project import MODELS, running_project, write_migration
from tests.faults.harness import KERNEL, end, free_port, until, until_serving
from tests.messaging.shop import FILES, running_shop, write_shop

ROUTER = """
import os
import time
from fastapi import APIRouter
from sqlalchemy import func, select
from kernel import Session, public
from kernel.ext.cache import cached
from modules.mail.models import Letter

router = APIRouter(dependencies=[public])

@router.get("", dependencies=[cached(600, tags=["letters"], shared=True)])
async def count(session: Session) -> dict[str, int]:
    found = (await session.execute(select(func.count()).select_from(Letter))).scalar_one()
    return {"letters": found, "read": time.time_ns()}

@router.get("/worker")
async def worker() -> int:
    return os.getpid()
"""
HANDLERS = (
    FILES["mail/handlers.py"]
    .replace("from kernel.ext.messaging import", "from kernel.ext.cache import Cache\nfrom kernel.ext.messaging import")
    .replace("    letters:", "    cache: Cache,\n    letters:")
    .replace("    await letters.create", '    await cache.forget("letters")\n    await letters.create')
)
CHANGED = {"mail/router.py": ROUTER, "mail/handlers.py": HANDLERS}


@asynccontextmanager
async def served(root: Path, **variables: str) -> AsyncIterator[httpx2.AsyncClient]:
    """Serve both modules with two workers; each request uses a new connection."""
    write_shop(root, CHANGED)
    (root / "pyproject.toml").touch()
    port = free_port()
    quick = {"MESSAGING_POLL_SECONDS": "0.2", "ENVIRONMENT": "local", "SERVER_RELOAD": "false"}
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220  # only its start is waited for
            [KERNEL, "serve", "--port", str(port), "--workers", "2"],
            cwd=root, env={**os.environ, **quick, **variables}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        await until_serving(port)
        once = httpx2.Limits(max_keepalive_connections=0)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1", limits=once, timeout=10) as client:
            workers: set[str] = set()
            async with asyncio.timeout(60):
                while len(workers) < 2:
                    answers = await asyncio.gather(*(client.get("/mail/worker") for _ in range(8)))
                    workers |= {answer.text for answer in answers}
            yield client
    finally:
        process.terminate()
        process.wait(60)
        end(process)


async def seen(client: httpx2.AsyncClient, times: int = 20) -> list[dict[str, int]]:
    answers = await asyncio.gather(*(client.get("/mail") for _ in range(times)))
    return [answer.json() for answer in answers]


async def until_seen(client: httpx2.AsyncClient, letters: int) -> None:
    async def shows() -> bool:
        return (await seen(client, 1))[0]["letters"] == letters

    await until(shows)


async def order(client: httpx2.AsyncClient, number: int) -> None:
    answer = await client.post("/shop", json={"number": number})
    assert answer.status_code == 201, answer.text


async def test_a_message_invalidates_cached_responses(tmp_path: Path, empty_url: str) -> None:
    async with running_shop(tmp_path, empty_url, CHANGED) as (_, client):
        client.base_url = httpx2.URL("http://test/api/v1")
        for number in range(1, 4):
            first, second = await seen(client, 1), await seen(client, 1)
            assert first == second, "the response is not cached"
            await order(client, number)
            await until_seen(client, number)


@pytest.mark.slow
async def test_a_message_invalidates_cached_responses_on_all_workers(tmp_path: Path, redis: Redis) -> None:
    async with served(tmp_path, STORE_URL=redis.url, STORE_TIMEOUT_SECONDS="5") as client:
        for number in range(1, 6):
            await order(client, number)
            await until_seen(client, number)
            await seen(client)  # Simultaneous first reads may each have been cached, one after the other.
            answers = await seen(client)
            assert {one["letters"] for one in answers} == {number}
            assert len({one["read"] for one in answers}) == 1, "each worker has a cache of its own"


@pytest.mark.slow
async def test_while_redis_is_down_nothing_is_cached_and_invalidated_responses_do_not_return(
    tmp_path: Path, redis: Redis
) -> None:
    async with served(tmp_path, STORE_URL=redis.url) as client:
        assert [one["letters"] for one in await seen(client)] == [0] * 20
        redis.kill()
        assert len({one["read"] for one in await seen(client)}) == 20, "the response is cached"
        await order(client, 1)
        await until_seen(client, 1)
        redis.start()

        async def keeps() -> bool:
            answers = await seen(client)
            assert {one["letters"] for one in answers} <= {0, 1}
            return len({one["read"] for one in answers}) == 1 and answers[0]["letters"] == 1

        await until(keeps, 20)


SLOW = """
import asyncio
from fastapi import APIRouter
from kernel import public
from kernel.ext.cache import Cache, cached

router = APIRouter(dependencies=[public])
value = 1
has_read, may_answer, has_forgotten, may_commit = (asyncio.Event() for _ in range(4))

@router.get("/{id}", dependencies=[cached(600, tags=["thing:{id}"])])
async def read(id: int) -> int:
    found = value
    has_read.set()
    await may_answer.wait()
    return found

@router.post("/{id}")
async def change(id: int, cache: Cache) -> None:
    global value
    value += 1
    await cache.forget(f"thing:{id}")

@router.put("/{id}")
async def change_slowly(id: int, cache: Cache) -> None:
    global value
    await cache.forget(f"thing:{id}")
    has_forgotten.set()
    await may_commit.wait()
    value += 1
"""


async def test_a_read_that_began_before_the_change_and_ends_after_it_is_not_cached(
    tmp_path: Path,
) -> None:
    """Naive: to delete cached responses.

    A response in progress would be cached after the deletion, for its whole time.
    """
    async with running_project(tmp_path, {"things/router.py": SLOW}) as (_, client):
        module: Any = import_module("modules.things.router")
        slow = asyncio.create_task(client.get("/api/v1/things/7"))
        await module.has_read.wait()
        assert (await client.post("/api/v1/things/7")).status_code == 200
        module.may_answer.set()
        assert (await slow).json() == 1
        assert [(await client.get("/api/v1/things/7")).json() for _ in range(2)] == [2, 2]
        assert (await client.post("/api/v1/things/8")).status_code == 200
        assert (await client.get("/api/v1/things/7")).json() == 2, "the tag of another thing"
        assert (await client.post("/api/v1/things/7")).status_code == 200
        assert (await client.get("/api/v1/things/7")).json() == 4


@pytest.mark.parametrize("compiled", ["true", "false"])
async def test_another_spelling_of_a_path_does_not_bypass_the_invalidation(tmp_path: Path, compiled: str) -> None:
    """Naive: to use the path's text as a tag. `/things/007` is also thing 7."""
    variables = {"APPLICATION_COMPILED_ENDPOINTS": compiled}
    async with running_project(tmp_path, {"things/router.py": SLOW}, variables) as (_, client):
        import_module("modules.things.router").may_answer.set()
        assert [(await client.get("/api/v1/things/007")).json() for _ in range(2)] == [1, 1]
        assert (await client.post("/api/v1/things/7")).status_code == 200
        assert (await client.get("/api/v1/things/007")).json() == 2
        assert (await client.get("/api/v1/things/seven")).status_code == 422


async def test_a_response_read_between_invalidation_and_commit_is_not_used_after_it(tmp_path: Path) -> None:
    """Naive: to invalidate only at the change. A read before the commit caches the old row under the new version."""
    async with running_project(tmp_path, {"things/router.py": SLOW}) as (_, client):
        module: Any = import_module("modules.things.router")
        module.may_answer.set()
        change = asyncio.create_task(client.put("/api/v1/things/7"))
        await module.has_forgotten.wait()
        assert [(await client.get("/api/v1/things/7")).json() for _ in range(2)] == [1, 1]
        module.may_commit.set()
        assert (await change).status_code == 200
        assert (await client.get("/api/v1/things/7")).json() == 2


LAGGING = """
from fastapi import APIRouter
from kernel import public
from kernel.ext.cache import Cache, cached

router = APIRouter(dependencies=[public])
replica = 1

@router.get("", dependencies=[cached(600, tags=["all"])])
async def read() -> int:
    return replica

@router.post("")
async def change(cache: Cache) -> None:
    await cache.forget("all")
"""


async def test_a_response_read_from_a_replica_within_its_lag_is_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that keeps what is read after the invalidation would keep the old row for the whole time."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    files = {"things/router.py": LAGGING, "things/models.py": MODELS}
    (tmp_path / "replica").mkdir()
    variables = {"DATABASE_READ_URL": f"sqlite:///{tmp_path / 'replica'}", "DATABASE_READ_LAG_SECONDS": "0.5"}
    write_migration(tmp_path, "things")
    async with running_project(tmp_path, files, variables) as (_, client):
        module: Any = import_module("modules.things.router")
        assert (await client.post("/api/v1/things")).status_code == 200
        assert (await client.get("/api/v1/things")).json() == 1
        module.replica = 2  # The replica has caught up.
        assert (await client.get("/api/v1/things")).json() == 2
        now += 0.6
        answers = [await client.get("/api/v1/things") for _ in range(2)]
        assert ["age" in answer.headers for answer in answers] == [False, True]


def cache_of(url: str, **settings: float) -> tuple[ResponseCache, SharedStore]:
    known = StoreSettings(url=SecretStr(url), **settings)
    store = SharedStore(known)
    return ResponseCache(known, store, "1"), store


async def answer_of(cache: ResponseCache, key: str, tag: str) -> bytes | None:
    """Return the cached response. Raises AssertionError while the store does not answer."""
    try:
        _, kept = await cache.find(key, [tag])
    except StoreUnavailable:
        raise AssertionError("not asked") from None
    return None if kept is None else kept.response.body


@pytest.mark.integration
@pytest.mark.alone
@pytest.mark.parametrize("tags", [2, 1500])
async def test_missed_invalidations_are_repeated_as_soon_as_redis_is_back(redis: Redis, tags: int) -> None:
    """Naive: to repeat the invalidation at the next request.

    A process without requests, such as a relay, never repeats it.
    """
    owing, other = cache_of(redis.url), cache_of(redis.url)
    keys = {f"t:{number}": other[0].key(str(number)) for number in (0, tags - 1)}
    for tag, key in keys.items():
        versions, _ = await other[0].find(key, [tag])
        assert versions is not None
        await other[0].keep(key, versions, RecordedResponse(200, [], b"old"), 600)
        assert await answer_of(other[0], key, tag) == b"old"
    redis.command = lambda: [*Redis.command(redis), "--appendonly", "yes"]  # type: ignore[method-assign]
    async with owing[0].running():
        await owing[0].forget(["t:none"])
        redis.kill()
        for number in range(tags):
            await owing[0].forget([f"t:{number}"])
        redis.start()

        async def is_forgotten() -> bool:
            return [await answer_of(other[0], key, tag) for tag, key in keys.items()] == [None, None]

        await until(is_forgotten, 10)
        began_at = time.monotonic()
        await asyncio.gather(*(answer_of(owing[0], key, tag) for tag, key in keys.items() for _ in range(10)))
        assert time.monotonic() - began_at < 1
    for _, store in (owing, other):
        await store.close()


async def test_a_tag_that_is_invalidated_again_during_the_first_time_is_repeated() -> None:
    cache, store = cache_of("redis://127.0.0.1:1")
    is_sent, times = asyncio.Event(), 0

    async def put(*_: Any, **__: Any) -> None:
        nonlocal times
        times += 1
        if times > 1:
            raise StoreUnavailable
        await is_sent.wait()

    store.put = put  # type: ignore[method-assign]
    async with cache.running():
        first = asyncio.create_task(cache.forget(["t:1"]))
        await asyncio.sleep(0)
        await cache.forget(["t:1"])
        is_sent.set()
        await first
        with pytest.raises(StoreUnavailable):
            await cache.find("any", ["t:2"])


async def test_the_invalidation_of_a_cancelled_request_is_repeated() -> None:
    cache, store = cache_of("redis://127.0.0.1:1")

    async def put(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    store.put = put  # type: ignore[method-assign]
    leaving = asyncio.create_task(cache.forget(["t:1"]))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    with pytest.raises(StoreUnavailable):
        await cache.find("any", ["t:2"])
    assert cache._retrying is not None
    cache._retrying.cancel()


@pytest.mark.integration
@pytest.mark.alone
async def test_all_store_commands_of_a_request_share_one_timeout(tmp_path: Path, redis: Redis) -> None:
    """Naive: a timeout for each command. A Redis that is slow at every command would exceed any limit."""
    router = """
from fastapi import APIRouter
from kernel import public
from kernel.ext.cache import cached
from kernel.ext.rate_limit import limited

router = APIRouter()

@router.get("", dependencies=[public, limited("1000/hour; 9000/day"), cached(0.01, tags=["a", "b"])])
async def read() -> int:
    return 1
"""
    delay = 0.0

    async def forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, slow: bool) -> None:
        while data := await source.read(65536):
            await asyncio.sleep(delay if slow else 0)
            sink.write(data)
        sink.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, sink = await asyncio.open_connection("127.0.0.1", redis.port)
        await asyncio.gather(forward(reader, sink, slow=False), forward(upstream, writer, slow=True))

    async with await asyncio.start_server(connect, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        variables = {"STORE_URL": f"redis://127.0.0.1:{port}", "RATE_LIMIT_OVERALL": "1000/minute; 9000/day"}
        async with running_project(tmp_path, {"things/router.py": router}, variables) as (_, client):
            for late in (0.0, 0.1):
                delay = late
                for _ in range(4):
                    began_at = time.monotonic()
                    assert (await client.get("/api/v1/things")).status_code == 200
                    assert time.monotonic() - began_at < 0.25 + 0.15
                    await asyncio.sleep(0.05)
