"""Clients that disconnect. Guards against connections and transactions that are never released."""

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path

import httpx2
from sqlalchemy.engine import make_url

from kernel.testing import query
from tests.core.waiting import until
from tests.faults.harness import Result, until_serving
from tests.faults.served import Served, open_files, resident_mib
from tests.faults.uploading import kept, picture, repository, upload

Scenario = Callable[[Path, str, bool], Awaitable[list[Result]]]

_CALLERS = 60  # Four times as many as the pool has connections.
_BOUNDARY = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
_IN_USE = re.compile(r'database_pool_connections\{[^}]*state="in_use"[^}]*\} (\S+)')
_IN_FLIGHT = re.compile(r"^http_server_requests_in_flight (\S+)", re.MULTILINE)


async def aborted(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """Clients disconnect at any moment of reads, writes, uploads and downloads.

    (Naive: cancelled requests lose connections.)
    """
    times, warm = (600, 300) if quick else (10_000, 2_000)
    here = repository(folder, database_url)
    data = picture(200)
    with here.process() as process:
        await until_serving(here.port)
        async with httpx2.AsyncClient(timeout=30) as client:
            image = (await upload(client, here, data)).json()["id"]
            requests = _requests(image, data)
            seen: Counter[str] = Counter()
            await _abort(here, requests, warm, seen)
            await until(lambda: _is_quiet(client, here))
            before, files_before = resident_mib(process.pid), open_files(process.pid)
            most_in_use = await _most_in_use(client, here, _abort(here, requests, times - warm, seen))
            await until(lambda: _is_quiet(client, here))
            after, files_after = resident_mib(process.pid), open_files(process.pid)
            works = await asyncio.gather(*(client.get(f"{here.url}/api/v1/events") for _ in range(_CALLERS)))
            _, lost = await kept(here)
        backends = _backends(database_url)
    well = Counter(one.status_code for one in works)
    grown = after - before
    return [
        Result("aborted requests", here.kind, f"{times:,}, {_CALLERS} at once",
               ", ".join(f"{name} {number:,}" for name, number in seen.most_common())
               + f"; up to {most_in_use:.0f} connections in use",
               f"0 connections in use afterwards; {backends.get('idle in transaction', 0)} idle in transaction of "
               f"{sum(backends.values())}; {before:.0f} MiB, then {after:.0f}; {files_before} files, then "
               f"{files_after}; {lost} rows without bytes; {dict(well)}",
               "0; 0; 20 MiB; 20 files; 0; 200",
               holds=backends.get("idle in transaction", 0) == 0 and grown < 20 and files_after <= files_before + 20
               and lost == 0 and set(well) == {200} and seen["left before the answer"] > times // 10
               and most_in_use > 0)
    ]  # fmt: skip


def _requests(image: int, data: bytes) -> list[bytes]:
    event = json.dumps({"title": "t", "date": "2030-01-01", "time": "10:00"}).encode()
    form = _BOUNDARY + data + b"\r\n--b--\r\n"
    kind = b"Content-Type: multipart/form-data; boundary=b\r\n"
    return [
        _request(b"GET /api/v1/events?limit=50"),
        _request(b"GET /api/v1/events/1"),
        _request(b"POST /api/v1/events", event, b"Content-Type: application/json\r\n"),
        _request(b"POST /api/v1/images", form, kind),
        _request(b"GET /api/v1/images/%d/content" % image),
        _request(b"GET /health/ready"),
    ]


def _request(line: bytes, body: bytes = b"", headers: bytes = b"") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return line + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n" + headers + length + b"\r\n" + body


async def _abort(here: Served, requests: list[bytes], times: int, seen: Counter[str]) -> None:
    numbers = iter(range(times))

    async def caller() -> None:
        for _ in numbers:
            seen[await _leave(here, random.choice(requests))] += 1

    await asyncio.gather(*(caller() for _ in range(_CALLERS)))


async def _leave(here: Served, request: bytes) -> str:
    """Send a request or a part of it, sometimes after a complete one; wait a moment, and disconnect."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    try:
        if random.random() < 0.2:  # This response is short, and complete.
            writer.write(_request(b"GET /health/live"))
            await reader.readuntil(b"}")
        is_cut = random.random() < 0.25
        writer.write(request[: random.randrange(1, len(request))] if is_cut else request)
        try:
            async with asyncio.timeout(random.expovariate(1 / 0.02)):
                await reader.read(200)
                return "left in the answer"
        except TimeoutError:
            return "left in the request" if is_cut else "left before the answer"
    except (ConnectionError, EOFError):
        return "ended by the server"
    finally:
        writer.transport.abort()


async def _most_in_use(client: httpx2.AsyncClient, here: Served, load: Coroutine[None, None, None]) -> float:
    """Run the load, and return the maximum of the pools' own count of connections in use."""
    under_way, most = asyncio.create_task(load), 0.0
    while not under_way.done():
        most = max(most, *(await _told(client, here, _IN_USE)))
        await asyncio.sleep(0.05)
    await under_way
    return most


async def _is_quiet(client: httpx2.AsyncClient, here: Served) -> bool:
    """Return whether no connection is in use by that count, and no other request is in progress."""
    return not any(await _told(client, here, _IN_USE)) and await _told(client, here, _IN_FLIGHT) == [1]


async def _told(client: httpx2.AsyncClient, here: Served, series: re.Pattern[str]) -> list[float]:
    text = (await client.get(f"{here.url}/metrics")).text
    found = [float(one) for one in series.findall(text)]
    assert found, text[:2000]
    return found


def _backends(database_url: str) -> dict[str, int]:
    if database_url.startswith("sqlite"):
        return {}
    states = (
        "SELECT json_object_agg(state, n) FROM (SELECT state, count(*) n FROM pg_stat_activity WHERE state IS NOT NULL "
    )
    states += "AND datname = current_database() AND pid <> pg_backend_pid() GROUP BY state) found"
    found: dict[str, int] = json.loads(query(make_url(database_url), states) or "{}")
    return found


ON_BOTH: tuple[Scenario, ...] = (aborted,)
