"""More requests than can be answered. Guards against a queue in which no request is answered in time."""

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2

from tests.faults.balancer import message
from tests.faults.harness import Result, percentiles, until_serving
from tests.faults.prober import probing
from tests.faults.served import Served, project

Scenario = Callable[[Path, str, bool], Awaitable[list[Result]]]

_POOL = 15
# The seconds for which each request holds a connection.
_HELD_SECONDS = 0.5


async def overload(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """Six times as many clients as the pool has connections.

    (Naive: a request that waits for 30 s delays all others.)
    """
    seconds = 4 if quick else 15
    results = []
    for is_naive in (False, True):
        waiting = {"DATABASE_POOL_TIMEOUT_SECONDS": "30", "DATABASE_POOL_SHARE_TIMEOUT_SECONDS": "30"}
        name = "naive" if is_naive else "ours"
        here = project(folder / name, database_url, DATABASE_POOL_SIZE="5", DATABASE_MAX_OVERFLOW="10",
                       DATABASE_POOL_SHARE_PERCENT="100", **(waiting if is_naive else {}))  # fmt: skip
        with here.process():
            await until_serving(here.port)
            began_at = time.monotonic()
            took, probes = await _press(here, 6 * _POOL, seconds)
            seen = Counter({status: len(each) for status, each in took.items()})
            goodput = seen[200] / (time.monotonic() - began_at)
            began_at = time.monotonic()
            async with httpx2.AsyncClient() as client:
                after = (await client.get(f"{here.url}/api/v1/work", timeout=30)).status_code
            recovered = time.monotonic() - began_at
        best = _POOL / _HELD_SECONDS
        slowest_shed, slowest = max(took[503], default=0.0), max(took[200])
        others = {status: times for status, times in seen.items() if status not in {200, 503}}
        results.append(
            Result("6 times the pool" + (", waiting 30 s (naive)" if is_naive else ""), here.kind,
                   f"{6 * _POOL} callers for {seconds} s, {seen.total():,} requests", f"{seen[503]:,} shed",
                   f"shed in {slowest_shed:.2f} s at most, served in {slowest:.2f}; {goodput:.0f} of {best:.0f}/s; "
                   f"live p99 {percentiles(probes)[1]:.0f} ms; others {others or 'none'}; after it {after} in "
                   f"{recovered:.2f} s",
                   "served later than 2 s" if is_naive else "1 s, 2 s, 80%, 100 ms, none, 1 s",
                   holds=slowest > 2 if is_naive else 0 < slowest_shed < 1 and slowest < 2
                   and goodput > best * 0.8 and percentiles(probes)[1] < 100 and not others and recovered < 1)
        )  # fmt: skip
    return results


async def too_many_at_once(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """More requests in progress than the limit of the process. (uvicorn's limit counts idle connections and probes.)"""
    limit = 50 if quick else 500
    here = project(folder, database_url, SERVER_MAX_CONCURRENT_REQUESTS=str(limit))
    with here.process():
        await until_serving(here.port)
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(limits=limits, timeout=30) as client:
            idle = [await asyncio.open_connection("127.0.0.1", here.port) for _ in range(limit)]
            first = [asyncio.create_task(client.get(f"{here.url}/api/v1/work/waited?seconds=4")) for _ in range(limit)]
            await asyncio.sleep(2)
            began_at = time.monotonic()
            more = await asyncio.gather(*(client.get(f"{here.url}/api/v1/work") for _ in range(limit)))
            took = (time.monotonic() - began_at) / limit
            probe = await client.get(f"{here.url}/health/live")
            served = Counter(one.status_code for one in await asyncio.gather(*first))
            after = await client.get(f"{here.url}/api/v1/work")
        for _, writer in idle:
            writer.transport.abort()
    refused = Counter((one.status_code, one.headers.get("retry-after")) for one in more)
    right = refused == {(503, "1"): limit} and served == {200: limit}
    return [
        Result("more requests than the limit", here.kind, f"{limit} in work, {limit} more, {limit} idle connections",
               f"{refused[503, '1']} refused", f"in work {dict(served)}; refused in {took * 1000:.1f} ms each; "
               f"live {probe.status_code}; after it {after.status_code}", "all 200; all 503; 200; 200",
               holds=right and probe.status_code == after.status_code == 200)
    ]  # fmt: skip


async def _press(here: Served, callers: int, seconds: float) -> tuple[defaultdict[int, list[float]], list[float]]:
    """Return the duration of each response by its status, and the durations of the probes.

    This client does as little work as possible, because 90 simultaneous responses would wait for each other here.
    """
    took: defaultdict[int, list[float]] = defaultdict(list)
    until = time.monotonic() + seconds
    request = f"GET /api/v1/work/held?seconds={_HELD_SECONDS} HTTP/1.1\r\nHost: a\r\n\r\n".encode()

    async def call() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        while time.monotonic() < until:
            began_at = time.monotonic()
            writer.write(request)
            answer = await message(reader)
            status = int(answer.split(b" ", 2)[1])
            took[status].append(time.monotonic() - began_at)
            if status == 503:
                assert b"retry-after: 1\r\n" in answer, answer
                await asyncio.sleep(0.25)
        writer.close()

    probed = here.root / "probed"
    with probing(here.port, probed, "/health/live"):
        async with asyncio.timeout(seconds + 60):
            await asyncio.gather(*(call() for _ in range(callers)))
    probes = [json.loads(line) for line in probed.read_text().splitlines()]
    assert {one["status"] for one in probes} == {200}
    return took, [one["took"] for one in probes]


ON_POSTGRESQL = (overload, too_many_at_once)
