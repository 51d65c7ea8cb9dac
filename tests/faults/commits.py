"""A COMMIT that fails, and what was committed. Guards against a response that is sent before the result is known."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count, islice
from pathlib import Path

import httpx2
from sqlalchemy.engine import make_url

from tests.core.project import FROM_MODELS
from tests.faults.harness import Result, until_serving
from tests.faults.proxy import FaultProxy
from tests.faults.served import Served, project

Scenario = Callable[[Path, str, bool], Awaitable[list[Result]]]

_CALLERS = 8
_COMMIT = b"COMMIT;\x00"  # in a Query message of PostgreSQL's protocol

_LEDGER = {
    "ledger/models.py": """
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from kernel.database import BigId, new_metadata

class Base(DeclarativeBase):
    metadata = new_metadata()

class Entry(Base):
    __tablename__ = "entries"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    number: Mapped[int] = mapped_column(index=True)
    part: Mapped[int]
    # Looked at by COMMIT, not by INSERT.
    cause_id: Mapped[int | None] = mapped_column(ForeignKey("entries.id", deferrable=True, initially="DEFERRED"))
""",
    "ledger/router.py": """
from typing import Annotated
from fastapi import APIRouter, Depends
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request
from kernel import Conflict, Session
from kernel.web.context import get_db
from modules.ledger.models import Entry

router = APIRouter()
# FastAPI's default: it commits when the answer is on its way.
Naive = Annotated[AsyncSession, Depends(get_db)]

@router.get("")
async def numbers(session: Session) -> list[int]:
    return list((await session.scalars(select(Entry.number))).all())

@router.get("/{number}")
async def how_many(number: int, session: Session) -> int:
    return (await session.scalars(select(func.count()).where(Entry.number == number))).one()

@router.post("", status_code=201)
async def add(number: int, session: Session, cause: int | None = None) -> int:
    session.add(Entry(number=number, part=0, cause_id=cause))
    return number

@router.post("/naive", status_code=201)
async def add_naively(number: int, session: Naive, cause: int | None = None) -> int:
    session.add(Entry(number=number, part=0, cause_id=cause))
    await session.flush()
    return number

@router.post("/first", status_code=201)
async def add_if_first(number: int, session: Session) -> int:
    await session.execute(text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
    if (await session.scalars(select(func.count()).where(Entry.number == number))).one():
        raise Conflict("There is one.")
    session.add(Entry(number=number, part=1))
    return number
""",
}


def _project(folder: Path, database_url: str, **variables: str) -> Served:
    here = project(folder, database_url, _LEDGER, **variables)
    (here.root / "migrations" / "ledger").mkdir()
    (here.root / "migrations" / "ledger" / "0001_first.py").write_text(FROM_MODELS)
    return here


class Writers:
    """Clients that insert a number each time, and record the responses."""

    def __init__(self, here: Served, path: str = "") -> None:
        self.told: dict[int, int] = {}
        self._numbers = count(1_000_000 if path else 0)
        self._url = f"{here.url}/api/v1/ledger"
        self._path = path

    async def add(self, times: int, question: str = "") -> None:
        """Insert this many more numbers, each once, by several clients."""
        numbers = islice(self._numbers, times)
        async with httpx2.AsyncClient(timeout=30) as client:

            async def caller() -> None:
                for number in numbers:
                    url = f"{self._url}{self._path}?number={number}{question}"
                    try:
                        self.told[number] = (await client.post(url)).status_code
                    except httpx2.TransportError:
                        # The connection closed: the naive application cannot report it otherwise.
                        self.told[number] = 0

            await asyncio.gather(*(caller() for _ in range(_CALLERS)))

    async def stored(self) -> Counter[int]:
        """Return the numbers that are stored."""
        async with httpx2.AsyncClient(timeout=30) as client:
            return Counter(json.loads((await client.get(self._url)).content))

    async def result(
        self, here: Served, scenario: str, least: int, *, bit: int | None = None, naive: bool = False
    ) -> Result:
        """Return the result: successes without a row, and failures with one. Without `bit`, no row is a failure."""
        stored = await self.stored()
        bit = sum(not stored[number] for number in self.told) if bit is None else bit
        lies = sum(status == 201 and not stored[number] for number, status in self.told.items())
        ghosts = sum(status != 201 and bool(stored[number]) for number, status in self.told.items())
        statuses = Counter(self.told.values())
        return Result(
            f"{scenario}{' (naive)' if naive else ''}", here.kind, f"{len(self.told):,} writes", f"{bit} failed",
            f"{lies} successes without a row, {ghosts} rows without success; answers "
            + ", ".join(f"{status} {number}" for status, number in sorted(statuses.items())),
            "some" if naive else "0, 0; 201 409 503",
            holds=bit >= least > 0
            and (lies > 0 if naive else (lies, ghosts) == (0, 0) and not set(statuses) - {201, 409, 503}),
        )  # fmt: skip


async def cut_at_commit(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """The connection breaks when COMMIT is sent, in half of all cases.

    (With FastAPI's default scope, the response is already sent.)
    """
    url = make_url(database_url)
    source, cut, results = random.Random(6), 0, []

    def watch(data: bytes) -> bool:
        nonlocal cut
        if _COMMIT not in data or not is_cutting or source.random() < 0.5:
            return False
        cut += 1
        return True

    is_cutting = False
    async with FaultProxy(f"{url.query['host']}/.s.PGSQL.{url.port or 5432}", watch=watch) as proxy:
        here = _project(folder, f"postgresql://{url.username}@127.0.0.1:{proxy.port}/{url.database}")
        with here.process():
            await until_serving(here.port)
            for path in ("", "/naive"):
                least = (30 if quick else 500) // (4 if path else 1)
                writers, cut = Writers(here, path), 0
                is_cutting = True
                while cut < least and len(writers.told) < 4 * least:
                    await writers.add(max(least - cut, _CALLERS))
                is_cutting = False
                results.append(await writers.result(here, "connection cut at COMMIT", least, bit=cut, naive=bool(path)))
    return results


async def refused_by_commit(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """A deferred constraint is violated, which only COMMIT detects. (Naive: as above.)"""
    times, results = (60 if quick else 500), []
    here = _project(folder, database_url)
    with here.process():
        await until_serving(here.port)
        for path in ("", "/naive"):
            writers, least = Writers(here, path), times if not path else times // 5
            await writers.add(least, "&cause=999999999")
            results.append(await writers.result(here, "constraint broken at COMMIT", least, naive=bool(path)))
    return results


async def not_serializable(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """Five transactions find no row and insert one: COMMIT refuses all but one.

    (Naive: the response is already sent.)
    """
    groups, each = (15 if quick else 120), 5
    here = _project(folder, database_url)
    answers: Counter[int] = Counter()
    successes: Counter[int] = Counter()
    with here.process():
        await until_serving(here.port)
        async with httpx2.AsyncClient(timeout=30) as client:

            async def add(group: int) -> None:
                answer = await client.post(f"{here.url}/api/v1/ledger/first?number={group}")
                answers[answer.status_code] += 1
                successes[group] += answer.status_code == 201

            for group in range(groups):
                await asyncio.gather(*(add(group) for _ in range(each)))
        stored = await Writers(here).stored()
    wrong = sum(successes[group] > 1 or stored[group] != successes[group] for group in range(groups))
    return [
        Result("not serializable", here.kind, f"{groups} times {each} at once", f"{answers[503]} refused",
               f"{wrong} with more than one, or with a row and no success; answers {dict(sorted(answers.items()))}",
               "0; 201 409 503",
               holds=wrong == 0 and answers[503] > 0 and not set(answers) - {201, 409, 503})
    ]  # fmt: skip


async def read_your_writes(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """The next read finds an acknowledged write, on another connection or in another process.

    Naive: with FastAPI's default scope, which commits after the response, 31 of 2,000 such reads found nothing.
    """
    times = 300 if quick else 10_000
    here = _project(folder, database_url)
    numbers, misses = count(), 0
    with here.process("--workers", "2"):
        await until_serving(here.port)
        began_at = time.monotonic()

        async def caller() -> None:
            nonlocal misses
            async with httpx2.AsyncClient(timeout=30) as writer, httpx2.AsyncClient(timeout=30) as reader:
                while (number := next(numbers)) < times:
                    url = f"{here.url}/api/v1/ledger"
                    (await writer.post(f"{url}?number={number}")).raise_for_status()
                    misses += (await reader.get(f"{url}/{number}")).json() != 1

        await asyncio.gather(*(caller() for _ in range(_CALLERS)))
    took = time.monotonic() - began_at
    return [
        Result("read a row that was just written", here.kind, f"{times:,} times, {_CALLERS} callers, 2 processes",
               f"read {took / times * 1000:.1f} ms later", f"{misses} misses", "0", holds=misses == 0)
    ]  # fmt: skip


ON_BOTH: tuple[Scenario, ...] = (refused_by_commit, read_your_writes)
ON_POSTGRESQL: tuple[Scenario, ...] = (cut_at_commit, not_serializable)
