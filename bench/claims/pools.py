"""Claim: a pool of connections to PostgreSQL saves 90 % of the time of a small read."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from statistics import median

import asyncpg
import uvloop
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from bench.claims.processes import ROOT
from bench.claims.reporting import Finding, interleaved, say
from kernel.runtime import Kernel
from kernel.testing import settings_for

_CLAIMED = 0.9
_READ = "SELECT 1"
_KERNEL = "the kernel's pool"
_NEW = "a new connection"

Read = Callable[[], Awaitable[object]]


def measure_pools(places: Mapping[str, URL], *, quick: bool) -> list[Finding]:
    """Return a row for each way to reach the server, given as name and URL."""
    turns, reads = (7, 20) if quick else (25, 40)
    findings = []
    for place, url in places.items():
        say(f"database pool: over {place}")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            findings.append(_finding(place, _measure(url, turns, reads, runner)))
    return findings


def _measure(url: URL, turns: int, reads: int, runner: asyncio.Runner) -> dict[str, float]:
    """Return the milliseconds of one read, by the way in which it gets its connection."""
    pool = Kernel(settings_for(ROOT, {"DATABASE_URL": url.render_as_string(hide_password=False)})).pool
    database = pool.database("events")
    pinged, plain = create_async_engine(url, pool_pre_ping=True), create_async_engine(url)
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)

    async def kernel() -> object:
        async with database.read() as session:
            return await session.scalar(text(_READ))

    ways: dict[str, Read] = {
        _KERNEL: kernel,
        _NEW: partial(_on_new_connection, dsn),
        "SQLAlchemy's pool": partial(_on_engine, plain),
        "with a pre-ping at every checkout": partial(_on_engine, pinged),
    }
    for way in ways.values():  # Every pool has its connection before the first turn.
        runner.run(_seconds_of(way, 3))
    figures = interleaved(turns, {name: partial(_turn, runner, way, reads) for name, way in ways.items()})
    for closing in (pool.close(), pinged.dispose(), plain.dispose()):
        runner.run(closing)
    return {name: median(figure) * 1000 for name, figure in figures.items()}


def _turn(runner: asyncio.Runner, way: Read, reads: int) -> float:
    return runner.run(_seconds_of(way, reads))


async def _seconds_of(way: Read, reads: int) -> float:
    """Return the median time of one of several reads."""
    times = []
    for _ in range(reads):
        started_at = time.perf_counter()
        await way()
        times.append(time.perf_counter() - started_at)
    return median(times)


async def _on_new_connection(dsn: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(_READ)
    finally:
        await connection.close()


async def _on_engine(engine: AsyncEngine) -> object:
    async with engine.connect() as connection:
        return await connection.scalar(text(_READ))


def _finding(place: str, milliseconds: Mapping[str, float]) -> Finding:
    saved = 1 - milliseconds[_KERNEL] / milliseconds[_NEW]
    shown = ", ".join(f"{name} {value:.2f} ms" for name, value in milliseconds.items())
    return Finding(
        "pooled database connections save 90 % of the time",
        f"one `{_READ}` at a time over {place}: with the kernel's pool, against asyncpg.connect, read, close",
        f"{saved:.1%} saved: {shown}",
        "yes" if saved >= _CLAIMED else "no",
        {"saved": saved, "milliseconds": dict(milliseconds)},
    )
