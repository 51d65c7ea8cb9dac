"""Upstreams that fail. Guards against calls that wait for ever, are sent three times or delay others."""

import asyncio
import json
import random
import ssl
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import trustme

from kernel.http_client import CircuitOpen
from tests.core.https_server import Call, Drop, Handler, Hang, HttpServer, Reply, tls_context
from tests.faults.harness import Result, percentiles, until_serving
from tests.faults.prober import probing
from tests.faults.proxy import FaultProxy, Mode
from tests.faults.served import Served, project
from tests.http_resilience.pools import circuits_of, retrying_pool

Scenario = Callable[[Path, str, bool], Awaitable[list[Result]]]

_TOTAL_SECONDS = 2.0
_CALLERS = 10
# How much longer than its deadline a call may take, because this process is also the upstream.
_GRACE_SECONDS = 0.5
_KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}


@dataclass(frozen=True)
class _Way:
    """A way to fail: how each call that reaches the upstream ends, and how many calls may reach it."""

    name: str
    ends: set[str]
    most: float = 1.2
    # The upstream answers, so the circuit stays closed.
    is_well: bool = False


async def outages(folder: Path, _database_url: str, quick: bool) -> list[Result]:
    """Each way to fail, all the time. (Naive: three tries each triple the load on a failing upstream.)"""
    seconds = 3.0 if quick else 6.0
    results = []
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for way, handler, certificate in (
        (_Way("hangs", {"ReadTimeout"}), _always(Hang()), None),
        (_Way("drips", {"ReadTimeout"}), _always(Reply(body=b"x" * 100_000, drip_seconds=0.05)), None),
        (_Way("drops connections", {"RemoteProtocolError"}), _always(Drop()), None),
        (_Way("503 with Retry-After", {"503"}), _always(Reply(503, {"retry-after": "1"})), None),
        (_Way("redirects in circles", {"TooManyRedirects"}, most=21, is_well=True), _circles, None),
        (
            _Way("certificate expired", {"certificate has expired"}),
            _always(Reply()),
            {"not_after": datetime.now(UTC) - timedelta(days=1)},
        ),
        (
            _Way("certificate of another", {"IP address mismatch"}),
            _always(Reply()),
            {"name": "other.example"},
        ),
    ):
        tls = None
        if certificate is not None:
            name_of = str(certificate.pop("name", "127.0.0.1"))
            tls = tls_context(authority, "http/1.1")
            authority.issue_cert(name_of, **certificate).configure_cert(tls)  # type: ignore[arg-type]  # by its name
        async with HttpServer(handler, tls) as server:
            reached = _connections(server) if tls else _calls(server)
            results.append(await _outage(folder, server.url, way, seconds, reached))
    async with HttpServer(_always(Reply())) as server:
        url = server.url.replace("http:", "https:")
        way = _Way("speaks no TLS", {"SSLError"})
        results.append(await _outage(folder, url, way, seconds, _connections(server)))
        async with FaultProxy(("127.0.0.1", int(server.url.rpartition(":")[2]))) as proxy:
            mode: Mode = "reset"
            await proxy.set(mode)
            url = f"http://127.0.0.1:{proxy.port}"
            way = _Way("resets", {"ReadError", "WriteError"})
            results.append(await _outage(folder, url, way, seconds, lambda: proxy.connections))
    served = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(b"x" * 1_000_000)
                await writer.drain()

    endless = await asyncio.start_server(pour, "127.0.0.1", 0)
    async with endless:
        url = f"http://127.0.0.1:{endless.sockets[0].getsockname()[1]}"
        way = _Way("sends without end", {"RemoteProtocolError"}, is_well=True)
        results.append(await _outage(folder, url, way, seconds, lambda: served))
    return results


def _calls(server: HttpServer) -> Callable[[], int]:
    return lambda: len(server.calls)


def _connections(server: HttpServer) -> Callable[[], int]:
    return lambda: server.connections


def _always(todo: Reply | Drop | Hang) -> Handler:
    async def handler(_call: Call) -> Reply | Drop | Hang:
        return todo

    return handler


async def _circles(call: Call) -> Reply:
    return Reply(302, {"location": call.path})


def _kind(error: httpx2.HTTPError) -> str:
    """Return the client's error, or the TLS error: the certificate's problem, or SSLError for an invalid handshake."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message.partition(",")[0]
        if isinstance(cause, ssl.SSLError):
            return ssl.SSLError.__name__
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


async def _outage(folder: Path, url: str, way: _Way, seconds: float, reached: Callable[[], int]) -> Result:
    took: list[float] = []
    ends: Counter[str] = Counter()
    settings = {
        "total_timeout_seconds": _TOTAL_SECONDS,
        "read_timeout_seconds": 1,
        "ca_file": folder / "ca.pem",
        "max_answer_bytes": 5_000_000,
    }
    over_at = time.monotonic() + seconds
    async with retrying_pool(**settings) as pool:

        async def call(number: int) -> None:
            while time.monotonic() < over_at:
                began_at = time.monotonic()
                try:
                    # Every second call may be repeated.
                    headers = _KEY if number % 2 else {}
                    answer = await pool.get_client().post(url, headers=headers, follow_redirects=True)
                    ends[str(answer.status_code)] += 1
                except httpx2.HTTPError as error:
                    ends[_kind(error)] += 1
                took.append(time.monotonic() - began_at)
                await asyncio.sleep(0.02)

        await asyncio.gather(*(call(number) for number in range(_CALLERS)))
        [circuit] = circuits_of(pool).values()
        state = circuit.state
    asked = ends.keys() - {CircuitOpen.__name__}
    ratio = reached() / len(took)
    ended = ", ".join(f"{name} {count}" for name, count in ends.most_common())
    return Result(
        f"upstream {way.name}", "none", f"{len(took):,} calls in {seconds:g} s", f"{ended}",
        f"slowest {max(took):.2f} s; reached it {reached()} times, {ratio:.2f} a call; circuit {state}",
        f"{_TOTAL_SECONDS + _GRACE_SECONDS:g} s; {way.most}; {'closed' if way.is_well else 'open'}",
        holds=max(took) < _TOTAL_SECONDS + _GRACE_SECONDS and bool(asked) and asked <= way.ends
        and 0 < ratio <= way.most and (state == "closed") == way.is_well,
    )  # fmt: skip


async def half_well(_folder: Path, _database_url: str, quick: bool) -> list[Result]:
    """Three responses in ten are 503, too few for the circuit: the budget of retries holds.

    (Naive: 1.39 calls with three tries.)
    """
    times = 200 if quick else 1000
    source = random.Random(6)

    async def handler(_call: Call) -> Reply:
        return Reply(503 if source.random() < 0.3 else 200)

    ends: Counter[int] = Counter()
    async with HttpServer(handler) as server, retrying_pool(backoff_seconds=0.01) as pool:

        async def caller() -> None:
            for _ in range(times // _CALLERS):
                try:
                    ends[(await pool.get_client().get(server.url)).status_code] += 1
                except CircuitOpen:
                    ends[0] += 1
                    await asyncio.sleep(0.2)

        await asyncio.gather(*(caller() for _ in range(_CALLERS)))
        asked = ends[200] + ends[503]
        ratio = (len(server.calls) - 10) / asked  # The first ten are free.
    return [
        Result("upstream fails three of ten calls", "none", f"{times:,} calls", f"{ends[503]} failed in the end",
               f"{ratio:.2f} tries a call, and 10; {ends[200]:,} well; {ends[0]} not asked", "1.2 and 10",
               holds=1 < ratio <= 1.2 and ends[503] > 0)
    ]  # fmt: skip


_ASKS = {
    "asks/settings.py": """
from kernel import ModuleSettings

class AsksSettings(ModuleSettings):
    bad: str
    good: str
""",
    "asks/module.py": """
from contextlib import asynccontextmanager
from kernel import Module

@asynccontextmanager
async def _open(context):
    yield context

module = Module(owner="team", lifespan=_open)
""",
    "asks/router.py": """
from typing import Annotated
from fastapi import APIRouter
from kernel import ModuleContext, from_module

router = APIRouter()
Context = Annotated[ModuleContext, from_module(ModuleContext)]

@router.get("/own")
async def own() -> int:
    return 1

@router.get("/{which}")
async def ask(which: str, context: Context) -> int:
    url = context.settings.bad if which == "bad" else context.settings.good
    return (await context.http.get_client().get(url)).status_code
""",
}


async def others_go_on(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """One upstream is slow, then hangs; calls to others do not wait. (Naive: its calls would take the whole pool.)"""
    seconds = 3.0 if quick else 8.0
    grace = 200 if quick else 50  # Some tests run in parallel.
    many = 120
    results = []
    slow = asyncio.Event()

    async def bad(_call: Call) -> Reply | Hang:
        await asyncio.sleep(1)
        return Hang() if slow.is_set() else Reply()

    async with AsyncExitStack() as stack:
        bad_one = await stack.enter_async_context(HttpServer(bad))
        here = project(folder, database_url, _ASKS, ASKS_BAD=bad_one.url, HTTP_CLIENT_TOTAL_TIMEOUT_SECONDS="3")
        here.variables["ASKS_GOOD"] = f"{here.url}/health/live"
        stack.enter_context(here.process())
        await until_serving(here.port)
        limits = httpx2.Limits(max_connections=None)
        client = await stack.enter_async_context(httpx2.AsyncClient(base_url=here.url, limits=limits, timeout=30))
        await _latencies(here, 1)
        before = await _latencies(here, seconds)
        for name, hangs in (("is slow", False), ("hangs", True)):
            if hangs:
                slow.set()
            ends: Counter[int] = Counter()
            asking = [asyncio.create_task(_keep_asking(client, ends)) for _ in range(many)]
            await asyncio.sleep(0.5)
            during = await _latencies(here, seconds)
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            shown = "; ".join(
                f"{path} p99 {percentiles(before[path])[1]:.0f} ms before, {percentiles(during[path])[1]:.0f} during"
                for path in before
            )
            is_alike = all(percentiles(during[one])[1] < percentiles(before[one])[1] * 2 + grace for one in before)
            results.append(
                Result(f"one upstream {name}, another is fast", here.kind, f"{many} callers of the one",
                       f"{bad_one.most_at_once} connections to it; ends {dict(ends)}", shown, f"twice and {grace} ms",
                       holds=is_alike and 20 < bad_one.most_at_once < 90)
            )  # fmt: skip
    return results


async def _keep_asking(client: httpx2.AsyncClient, ends: Counter[int]) -> None:
    while True:
        ends[(await client.get("/api/v1/asks/bad")).status_code] += 1
        await asyncio.sleep(0.5)


async def _latencies(here: Served, seconds: float) -> dict[str, list[float]]:
    """Return the durations in seconds of requests that do not need the slow upstream, by path."""
    file, found = here.root / "probed", defaultdict[str, list[float]](list)
    with probing(here.port, file, "/api/v1/asks/own", "/api/v1/asks/good"):
        await asyncio.sleep(seconds)
    for line in file.read_text().splitlines():
        seen = json.loads(line)
        assert seen["status"] == 200, seen
        found[seen["path"].rpartition("/")[2]].append(seen["took"])
    return found


ONCE: tuple[Scenario, ...] = (outages, half_well, others_go_on)
