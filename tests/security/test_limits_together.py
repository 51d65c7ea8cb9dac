"""Limits with several workers, a shared Redis that may fail, and proxies in front."""

import asyncio
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path

import httpx2
import pytest
from redis.asyncio import client

from tests.brokers.servers import Redis
from tests.core.project import write_project
from tests.faults.harness import KERNEL, end, free_port, until, until_serving

pytestmark = pytest.mark.slow

ROUTER = """
import os
from fastapi import APIRouter
from kernel.ext.rate_limit import limited

router = APIRouter()

@router.get("", dependencies=[limited("20/day")])
async def read() -> int:
    return os.getpid()

@router.get("/worker")
async def worker() -> int:
    return os.getpid()
"""


@contextmanager
def serving(root: Path, *words: str, **variables: str) -> Iterator[str]:
    """Run `kernel serve` with the route of this file; yield its address."""
    write_project(root, {"things/router.py": ROUTER})
    (root / "pyproject.toml").touch()
    port = free_port()
    own = {"ENVIRONMENT": "local", "SERVER_RELOAD": "false", "LOG_FORMAT": "json", **variables}
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            [KERNEL, "serve", "--port", str(port), *words], cwd=root, env={**os.environ, **own}, stdout=log, stderr=log
        )
    try:
        yield f"http://127.0.0.1:{port}/api/v1/things"
    finally:
        process.terminate()
        process.wait(60)
        end(process)


async def until_there(url: str) -> None:
    await until_serving(httpx2.URL(url).port or 0)


async def ask(url: str, times: int, **headers: str) -> list[httpx2.Response]:
    """Send all requests at once, each on a new connection."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(httpx2.AsyncClient(timeout=10)) for _ in range(times)]
        return await asyncio.gather(*(client.get(url, headers=headers) for client in clients))


def statuses(answers: list[httpx2.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


def said(root: Path, event: str) -> int:
    """Return how often the log contains a text."""
    return sum(event in line for line in (root / "log").read_text().splitlines())


@asynccontextmanager
async def both_workers(url: str) -> AsyncIterator[tuple[httpx2.AsyncClient, httpx2.AsyncClient]]:
    """Return a client for each worker: a connection stays with the worker that accepted it."""
    await until_there(url)
    found: dict[str, httpx2.AsyncClient] = {}
    async with AsyncExitStack() as stack, asyncio.timeout(60):
        while len(found) < 2:
            clients = [await stack.enter_async_context(httpx2.AsyncClient(timeout=10)) for _ in range(8)]
            answers = await asyncio.gather(*(client.get(f"{url}/worker") for client in clients))
            found |= {answer.text: client for answer, client in zip(answers, clients, strict=True)}
        first, second = found.values()
        yield first, second


async def test_two_workers_with_a_redis_count_together(tmp_path: Path, redis: Redis) -> None:
    with serving(tmp_path, "--workers", "2", STORE_URL=redis.url) as url:
        async with both_workers(url) as clients:
            workers = [clients[number % 2] for number in range(24)]
            assert [(await worker.get(url)).status_code for worker in workers] == [200] * 20 + [429] * 4


async def test_without_a_redis_each_worker_counts_for_itself(tmp_path: Path) -> None:
    """The result of the test above if nothing were shared."""
    with serving(tmp_path, "--workers", "2") as url:
        async with both_workers(url) as clients:
            for worker in clients:
                assert [(await worker.get(url)).status_code for _ in range(22)] == [200] * 20 + [429] * 2


@pytest.mark.alone
async def test_a_redis_that_hangs_costs_one_timeout_and_limits_still_hold(tmp_path: Path, redis: Redis) -> None:
    with serving(tmp_path, STORE_URL=redis.url, STORE_TIMEOUT_SECONDS="0.3") as url:
        await until_there(url)
        assert statuses(await ask(url, 5)) == {200: 5}
        os.kill(redis.pid(), signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert statuses(await ask(url, 25)) == {200: 15, 429: 10}, "each process must count for itself too"
            took = time.monotonic() - began
        finally:
            os.kill(redis.pid(), signal.SIGCONT)
        assert 0.3 < took < 3, "only requests in progress may wait for Redis, and then one per second"
        await until_counted(url, redis)
    assert said(tmp_path, "does not answer") == said(tmp_path, "answers again") == 1


async def test_a_redis_that_restarts_is_used_again(tmp_path: Path, redis: Redis) -> None:
    with serving(tmp_path, STORE_URL=redis.url) as url:
        await until_there(url)
        assert statuses(await ask(url, 5)) == {200: 5}
        redis.kill()
        assert statuses(await ask(url, 25)) == {200: 15, 429: 10}
        redis.start()
        await until_counted(url, redis)
    assert said(tmp_path, "does not answer") == said(tmp_path, "answers again") == 1


async def until_counted(url: str, redis: Redis) -> None:
    """Wait until a new caller is counted in Redis.

    One caller that repeats requests would soon exceed the limit here.
    """
    callers = count(1)

    async def is_counted() -> bool:
        await ask(url, 1, **{"X-Forwarded-For": f"192.0.2.{next(callers)}"})
        async with client.Redis.from_url(redis.url) as asked:
            return len(await asked.keys("limits*")) == 2

    await until(is_counted, 10)


async def test_a_missing_redis_does_not_stop_the_start(tmp_path: Path) -> None:
    with serving(tmp_path, STORE_URL=f"redis://127.0.0.1:{free_port()}") as url:
        await until_there(url)
        assert statuses(await ask(url, 22)) == {200: 20, 429: 2}


async def test_an_untrusted_proxy_counts_as_one_caller(tmp_path: Path) -> None:
    """Naive: trusting X-Forwarded-For makes every request one of a new caller."""
    with serving(tmp_path, SERVER_FORWARDED_ALLOW_IPS="10.0.0.1") as url:
        await until_there(url)
        answers = [(await ask(url, 1, **{"X-Forwarded-For": f"192.0.2.{number}"}))[0] for number in range(25)]
    assert statuses(answers) == {200: 20, 429: 5}


async def test_behind_trusted_proxies_the_last_untrusted_address_counts(tmp_path: Path) -> None:
    with serving(tmp_path, SERVER_FORWARDED_ALLOW_IPS="127.0.0.1,10.0.0.0/8") as url:
        await until_there(url)

        async def came(*chain: str) -> int:
            return (await ask(url, 1, **{"X-Forwarded-For": ", ".join(chain)}))[0].status_code

        # The caller wrote the part to the left of it, which may be any text.
        assert [await came(f"198.51.100.{number}", "192.0.2.1", "10.0.0.7") for number in range(20)] == [200] * 20
        assert await came("192.0.2.1") == 429
        assert await came("192.0.2.2") == 200
        assert await came("192.0.2.1", "192.0.2.2") == 200, "the claim to be another address must not count"


def test_the_log_never_shows_the_store_s_password(tmp_path: Path) -> None:
    write_project(tmp_path, {"things/router.py": ROUTER})
    (tmp_path / "pyproject.toml").touch()
    own = {**os.environ, "STORE_URL": "redis://:sentinel-7@127.0.0.1:1", "ENVIRONMENT": "local"}
    shown = subprocess.run([KERNEL, "settings"], cwd=tmp_path, env=own, capture_output=True, text=True, check=True)
    assert "STORE_URL" in shown.stdout
    assert "sentinel-7" not in shown.stdout + shown.stderr
