"""A database that fails under load. Guards against requests that wait, get a 500 or lose a write."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx2
from sqlalchemy.engine import URL, make_url

from kernel.testing import create_database, pgserver, postgresql_server, query
from tests.faults.harness import Result, until_serving
from tests.faults.prober import probing
from tests.faults.proxy import FaultProxy
from tests.faults.served import Served, project

Scenario = Callable[[Path, str, bool], Awaitable[list[Result]]]

_CLIENTS = 40  # The pool has 15 connections.
_PAUSE_SECONDS = 0.05
# Replaces the process's resolver: it resolves the name unless a file exists. uvloop resolves in C, so the event loop's
# method is replaced, and it raises the same errors as uvloop.
_RESOLVER = """
import os, socket, uvloop
connect = uvloop.Loop.create_connection
async def create_connection(loop, factory, host=None, port=None, **options):
    if host == "database.test":
        if os.path.exists({gone!r}):
            open({asked!r}, "a").write("x")
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        host = "127.0.0.1"
    return await connect(loop, factory, host, port, **options)
uvloop.Loop.create_connection = create_connection
"""


@dataclass
class Seen:
    """A response: its path, the time of the request, the duration in seconds, and whether it is a valid 503."""

    path: str
    at: float
    took: float
    status: int
    is_proper: bool = True


@dataclass
class Load:
    """Clients that read and write continuously, and one that probes the health of the process."""

    here: Served
    is_quick: bool
    seen: list[Seen] = field(default_factory=list)
    acknowledged: set[int] = field(default_factory=set)
    numbers: Iterator[int] = field(default_factory=count)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        limits = httpx2.Limits(max_connections=None)
        probed = self.here.root / "probed"
        with probing(self.here.port, probed, "/health/live", "/health/ready"):
            async with httpx2.AsyncClient(base_url=self.here.url, limits=limits, timeout=30) as client:
                tasks = [asyncio.create_task(self._call(client)) for _ in range(_CLIENTS)]
                yield
                for task in tasks:
                    task.cancel()
                found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in found), found
        self.seen += [Seen(**json.loads(line)) for line in probed.read_text().splitlines()]

    async def _call(self, client: httpx2.AsyncClient) -> None:
        for turn in count():
            if turn % 3:
                await self._ask(client, "GET", "/api/v1/work")
            else:
                number = next(self.numbers)
                if await self._ask(client, "POST", f"/api/v1/work?number={number}") == 201:
                    self.acknowledged.add(number)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _ask(self, client: httpx2.AsyncClient, method: str, path: str) -> int:
        at = time.monotonic()
        answer = await client.request(method, path)
        is_proper = answer.status_code < 500 or (
            answer.headers["content-type"] == "application/problem+json" and "retry-after" in answer.headers
        )
        self.seen.append(Seen(path, at, time.monotonic() - at, answer.status_code, is_proper))
        return answer.status_code


@dataclass
class Fault:
    """How the database fails, how it recovers, and how to count the faults that occurred."""

    name: str
    begin: Callable[[], Awaitable[object]]
    end: Callable[[], Awaitable[object]]
    what: str
    times: Callable[[], int]


async def outages(folder: Path, _database_url: str, quick: bool) -> list[Result]:
    """The database is refused, unknown, frozen or unreachable for a while.

    (Naive: drivers wait 30 or 60 s, and so do probes.)
    """
    seconds = 3.5 if quick else 8
    with postgresql_server(folder / "pg") as server:
        url = create_database(server, "outages")
        async with FaultProxy(f"{url.query['host']}/.s.PGSQL.{url.port or 5432}") as proxy:
            here = _served(folder, url, proxy)
            results, numbers = [], count()
            by_name = {"PYTHONPATH": str(folder / "resolver"), "DATABASE_URL": _behind(proxy, url, "database.test")}
            for variables, faults in (({}, _faults(folder, proxy)), (by_name, [_forgotten(folder, proxy)])):
                with here.process(**variables):
                    await until_serving(here.port)
                    results += [await _during(here, fault, seconds, numbers, quick=quick) for fault in faults]
            return results


def _served(folder: Path, url: URL, proxy: FaultProxy) -> Served:
    """Run the project with its database behind the proxy."""
    (folder / "resolver").mkdir()
    resolver = _RESOLVER.format(gone=str(folder / "gone"), asked=str(folder / "asked"))
    (folder / "resolver" / "sitecustomize.py").write_text(resolver)
    # The defaults apply: 15 connections, 1 s to get one, 2 s to connect, 30 s for a statement.
    return project(folder, _behind(proxy, url), DATABASE_POOL_SHARE_PERCENT="100")


def _behind(proxy: FaultProxy, url: URL, host: str = "127.0.0.1") -> str:
    return f"postgresql://{url.username}@{host}:{proxy.port}/{url.database}"


def _forgotten(folder: Path, proxy: FaultProxy) -> Fault:
    gone, asked = folder / "gone", folder / "asked"

    async def forget() -> None:
        gone.touch()
        proxy.reset_all()  # While connections last, nothing resolves the name.

    async def remember() -> None:
        gone.unlink()

    asked.touch()
    return Fault("name unknown", forget, remember, "times asked for", lambda: len(asked.read_text()))


def _faults(folder: Path, proxy: FaultProxy) -> list[Fault]:
    frozen: list[int] = []
    stopped = 0

    async def freeze() -> None:
        frozen[:] = _pids(folder / "pg")
        for pid in frozen:
            with suppress(ProcessLookupError):  # It has ended since it was listed.
                os.kill(pid, signal.SIGSTOP)

    async def thaw() -> None:
        nonlocal stopped
        stopped += sum(_state(pid) == "T" for pid in frozen)
        for pid in frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def swallow() -> None:
        await proxy.set("swallow")

    async def refuse() -> None:
        await proxy.set("refuse")

    async def heal() -> None:
        await proxy.set("pass")

    return [
        Fault("refused", refuse, heal, "connections broken", lambda: proxy.broken),
        Fault("frozen (SIGSTOP)", freeze, thaw, "processes stopped", lambda: stopped),
        Fault("packets swallowed", swallow, heal, "packets", lambda: proxy.swallowed),
    ]


def _pids(folder: Path) -> list[int]:
    """Return the processes of the server, its main process first (Linux)."""
    first = int((folder / "postmaster.pid").read_text().split()[0])
    return [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]


def _state(pid: int) -> str:
    """Return the state of a process as the system reports it: T is stopped, Z has ended, "" is gone (Linux)."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


async def _during(here: Served, fault: Fault, seconds: float, numbers: Iterator[int], *, quick: bool) -> Result:
    load = Load(here, quick, numbers=numbers)
    async with load.running():
        await asyncio.sleep(1)
        before = fault.times()
        await fault.begin()
        began_at = time.monotonic()
        try:
            await asyncio.sleep(seconds)
        finally:
            await fault.end()
        healed_at = time.monotonic()
        await asyncio.sleep(2.5)
    times, spans = fault.times() - before, [(began_at, healed_at)]
    bit = f"{times} {fault.what}"
    return await _judged(here, load, f"database {fault.name}", f"{seconds:g} s", bit, spans, has_bit=times > 0)


async def restarted(folder: Path, _database_url: str, quick: bool) -> list[Result]:
    """The server restarts, alternately in order and as after a crash.

    (Naive: without a second attempt, reads fail too.)
    """
    times = 2 if quick else 10
    with postgresql_server(folder / "pg") as server:
        url = create_database(server, "restarted")
        # Acknowledged writes must survive a crash of the server, but not of the machine.
        query(server, "ALTER SYSTEM SET synchronous_commit = on")
        query(server, "SELECT pg_reload_conf()")
        here = project(folder, url.render_as_string(hide_password=False), DATABASE_POOL_SHARE_PERCENT="100")
        load, spans, restarts = Load(here, quick), [], 0
        with here.process():
            await until_serving(here.port)
            async with load.running():
                for turn in range(times):
                    await asyncio.sleep(1.5)
                    began_at = time.monotonic()
                    how = signal.SIGQUIT if turn % 2 else signal.SIGINT
                    restarts += await asyncio.to_thread(_restart, folder / "pg", how)
                    spans.append((began_at, time.monotonic()))
                await asyncio.sleep(2)
            tried, bit, is_each = f"{times} times", f"{restarts} restarts", restarts == times
            return [await _judged(here, load, "database restarted under load", tried, bit, spans, has_bit=is_each)]


def _restart(folder: Path, how: signal.Signals) -> bool:
    """Restart the server, and return whether its main process is another one."""
    first = _pids(folder)[0]
    os.kill(first, how)
    while _state(first) not in {"Z", ""}:
        time.sleep(0.01)
    pgserver.get_server(folder, cleanup_mode="stop", start=False).start()
    return _pids(folder)[0] != first


async def killed_connections(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """All connections of the pool end at once, repeatedly.

    (Naive: a pool without pings hands out each dead connection once.)
    """
    times = 3 if quick else 20
    here = project(folder, database_url, DATABASE_POOL_SHARE_PERCENT="100")
    url = make_url(database_url)
    others = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
    load, spans, killed = Load(here, quick), [], list[int]()
    with here.process():
        await until_serving(here.port)
        async with load.running():
            for _ in range(times):
                await asyncio.sleep(0.4)
                began_at = time.monotonic()
                ended = await asyncio.to_thread(
                    query, url, f"SELECT count(nullif(pg_terminate_backend(pid), false)) {others}"
                )
                killed.append(int(ended))
                spans.append((began_at, time.monotonic()))
            await asyncio.sleep(1)
        tried, bit = f"{times} times", f"{min(killed)} to {max(killed)} killed"
        judged = await _judged(
            here, load, "all connections killed", tried, bit, spans, has_bit=min(killed) > 0, is_killed=True
        )
        return [judged]


async def _judged(
    here: Served, load: Load, scenario: str, tried: str, bit: str, spans: list[tuple[float, float]], *,
    has_bit: bool, is_killed: bool = False,
) -> Result:  # fmt: skip
    """Return whether all responses were timely and valid, from the fault until the recovery."""
    live = [one for one in load.seen if one.path == "/health/live"]
    ready = [one for one in load.seen if one.path == "/health/ready"]
    calls = [one for one in load.seen if one.path.startswith("/api")]
    statuses = Counter(one.status for one in calls)
    strange = sum(count for status, count in statuses.items() if status not in {200, 201, 503})
    strange += sum(not one.is_proper for one in load.seen)
    slowest, slowest_live = max(one.took for one in calls), max(one.took for one in live)
    # Tests that run in parallel must not count as a fault of the process.
    live_bound = 1 if load.is_quick else 0.1
    slowest_ready = max(one.took for one in ready)
    refused = [one for one in (*calls, *ready) if one.status == 503]
    well_after = max((_behind_all(one.at + one.took, spans) for one in refused), default=0.0)
    lost = len(load.acknowledged - await _stored(here))
    is_long = any(healed_at - began_at > 1.5 for began_at, healed_at in spans)
    began_at = spans[0][0]
    unready_after = min((one.at + one.took - began_at for one in ready if one.status == 503 and one.at > began_at),
                        default=99.0) if is_long else 0.0  # fmt: skip
    return Result(
        scenario, here.kind, f"{tried}, {_CLIENTS} callers, {len(calls):,} requests",
        f"{bit}; {statuses[503]:,} answers 503",
        f"slowest {slowest:.2f} s; live {slowest_live * 1000:.0f} ms; ready in {slowest_ready:.2f} s, 503 after "
        f"{unready_after:.2f}; well after {well_after:.2f} s; {strange} other answers; {lost} of "
        f"{len(load.acknowledged):,} lost",
        f"3 s; {live_bound * 1000:.0f} ms; 1.5 s; 1.5 s; 1 s; 0; 0",
        holds=has_bit and slowest < 3 and slowest_live < live_bound and unready_after < 1.5 and slowest_ready < 1.5
        and well_after < 1 and strange == lost == 0 and (is_killed or statuses[503] > 0) and bool(load.acknowledged),
    )  # fmt: skip


def _behind_all(at: float, spans: list[tuple[float, float]]) -> float:
    """Return how long after the previous fault an event happened; 0 during a fault."""
    return max(0.0, at - max((healed_at for began_at, healed_at in spans if began_at <= at), default=at))


async def _stored(here: Served) -> set[int]:
    async with httpx2.AsyncClient() as client:
        return set((await client.get(f"{here.url}/api/v1/work/all", timeout=30)).json())


ON_POSTGRESQL: tuple[Scenario, ...] = (killed_connections,)
# On a server of their own, for any database that they are given.
ONCE: tuple[Scenario, ...] = (outages, restarted)
