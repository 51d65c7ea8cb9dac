"""Claims: selecting only the needed columns, and compiling a statement only once, both save processor time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import date
from functools import partial
from statistics import median

import uvloop
from pydantic import BaseModel
from sqlalchemy import Select, String, Text, select
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from bench.claims.application import words
from bench.claims.processes import ROOT
from bench.claims.reporting import Finding, interleaved, say
from kernel.database import BaseRepository, BigId, Database, new_metadata
from kernel.runtime import Kernel
from kernel.testing import settings_for

_ROWS = 20
_DESCRIPTION_BYTES = 10_000

Read = Callable[[AsyncSession], Awaitable[object]]


class _Base(DeclarativeBase):
    metadata = new_metadata()


class _Wide(_Base):
    """Rows of which a list shows few columns."""

    __tablename__ = "wide"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text)
    location: Mapped[str] = mapped_column(String(200))
    day: Mapped[date]


class _Narrow(BaseModel):
    """The columns that a list shows."""

    id: int
    title: str
    location: str
    day: date


def measure_queries(url: URL, *, quick: bool) -> list[Finding]:
    """Measure the two rows on a table of their own in an empty PostgreSQL database."""
    turns, reads = (7, 50) if quick else (25, 100)
    kernel = Kernel(settings_for(ROOT, {"DATABASE_URL": url.render_as_string(hide_password=False)}))
    database = kernel.pool.database()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_fill(database))
        say("columns against whole rows")
        columns = _compare({"columns": _narrow, "whole rows": _whole}, database, turns, reads, runner)
        say("compiled cache")
        cached = _compare({"on": _cached, "off": _compiled_anew}, database, turns, reads, runner)
        runner.run(kernel.pool.close())
    return [_columns_finding(columns), _cache_finding(cached)]


Figures = Mapping[str, tuple[float, float]]
"""By contestant: milliseconds of processor time and of time, of one read."""


def _compare(
    ways: Mapping[str, Read], database: Database, turns: int, reads: int, runner: asyncio.Runner
) -> dict[str, tuple[float, float]]:
    elapsed: dict[str, list[float]] = {name: [] for name in ways}

    def turn(name: str, read: Read) -> float:
        cpu, seconds = runner.run(_cost(database, read, reads))
        elapsed[name].append(seconds)
        return cpu

    for read in ways.values():
        runner.run(_cost(database, read, 10))
    cpu = interleaved(turns, {name: partial(turn, name, read) for name, read in ways.items()})
    return {name: (median(cpu[name]) * 1000, median(elapsed[name]) * 1000) for name in ways}


async def _cost(database: Database, read: Read, reads: int) -> tuple[float, float]:
    started_at, cpu_at = time.perf_counter(), time.process_time()
    for _ in range(reads):
        async with database.read() as session:
            await read(session)
    return (time.process_time() - cpu_at) / reads, (time.perf_counter() - started_at) / reads


async def _narrow(session: AsyncSession) -> object:
    return await BaseRepository[_Wide, int](_Wide, session).get_all(_ROWS, into=_Narrow)


async def _whole(session: AsyncSession) -> object:
    """Return the answer from entities, the usual way."""
    rows = await session.scalars(select(_Wide).order_by(_Wide.id).limit(_ROWS))
    return [_Narrow.model_validate(row, from_attributes=True) for row in rows]


async def _cached(session: AsyncSession) -> object:
    return (await session.execute(_one(), execution_options={})).scalar_one()


async def _compiled_anew(session: AsyncSession) -> object:
    return (await session.execute(_one(), execution_options={"compiled_cache": None})).scalar_one()


def _one() -> Select[str]:
    return select(_Wide.title).where(_Wide.id == 7)


async def _fill(database: Database) -> None:
    async with database.writer.begin() as connection:
        await connection.run_sync(_Base.metadata.create_all)
    async with database.transaction() as session:
        for number in range(5 * _ROWS):
            text = words(_DESCRIPTION_BYTES // 4, seed=number)[:_DESCRIPTION_BYTES]
            session.add(_Wide(title=f"Event {number}", description=text, location="Berlin", day=date(2030, 5, 1)))


def _columns_finding(figures: Figures) -> Finding:
    (columns_cpu, columns_time), (rows_cpu, rows_time) = figures["columns"], figures["whole rows"]
    return Finding(
        "selecting columns is cheaper than whole rows",
        f"{_ROWS} rows into a schema of 4 of 5 columns, the fifth of {_DESCRIPTION_BYTES // 1000} KB; "
        "`into=` of the kernel's repository, against entities",
        f"{rows_cpu / columns_cpu:.2f} times less CPU ({columns_cpu:.2f} against {rows_cpu:.2f} ms), "
        f"{rows_time / columns_time:.2f} times less time ({columns_time:.2f} against {rows_time:.2f} ms)",
        "yes" if columns_cpu < rows_cpu and columns_time < rows_time else "no",
        {"cpu_ratio": rows_cpu / columns_cpu, "time_ratio": rows_time / columns_time, "milliseconds": dict(figures)},
    )


def _cache_finding(figures: Figures) -> Finding:
    on, off = figures["on"][0], figures["off"][0]
    return Finding(
        "the compiled cache saves processor time",
        "one small read through a SQLAlchemy session, with its cache of compiled statements and without",
        f"{off / on:.2f} times the CPU without it ({on:.2f} against {off:.2f} ms)",
        "yes" if off > on else "no",
        {"cpu_ratio": off / on, "milliseconds": dict(figures)},
    )
