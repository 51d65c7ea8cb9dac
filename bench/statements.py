"""Count the statements of a request exactly, by PostgreSQL's own log or SQLite's trace."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.apps.registry import APPS, Places
from bench.database import Tables
from bench.inprocess import Worker
from bench.scenarios import SCENARIOS, Scenario, recipe_for

_REQUESTS = 20
_WARM_UP = 5
# Seconds until the server's processes have applied the setting, and until they have written the last line.
_SETTLE_SECONDS = 0.3
_WRITE_SECONDS = 0.03
# Log with durations, not with log_statement, which omits empty statements. The extended protocol binds a statement and
# then executes it; only the first step shows an empty one.
_LOGGED = re.compile(r"LOG:  duration: [\d.]+ ms  (?:statement|bind [^:]*): ?(.*)")
_TRANSACTION = frozenset({"BEGIN", "START", "COMMIT", "ROLLBACK", "END", "SAVEPOINT", "RELEASE"})


@dataclass
class Statements:
    """Counts of statements that read or change rows, of BEGIN, COMMIT and the like, and of empty pings."""

    data: float = 0
    transaction: float = 0
    pings: float = 0

    def per_request(self, requests: int) -> "Statements":
        """Return the counts per request."""
        return Statements(self.data / requests, self.transaction / requests, self.pings / requests)

    def __str__(self) -> str:
        parts = [f"{self.data:g}"]
        if self.transaction:
            parts.append(f"{self.transaction:g} tx")
        if self.pings:
            parts.append(f"{self.pings:g} ping")
        return " + ".join(parts)


def logged(log: str) -> Iterator[str]:
    """Return the statements in a part of PostgreSQL's log; of one with several lines, the first line."""
    return (match[1] for line in log.splitlines() if (match := _LOGGED.search(line)))


def sort_out(statements: Iterable[str]) -> Statements:
    """Count statements by their kind."""
    counted = Statements()
    for statement in statements:
        text = statement.strip().rstrip(";").strip()
        if text in {"", "SELECT 1"}:
            counted.pings += 1
        elif text.split(None, 1)[0].upper() in _TRANSACTION:
            counted.transaction += 1
        else:
            counted.data += 1
    return counted


@asynccontextmanager
async def logging(tables: Tables) -> AsyncIterator[None]:
    """Let PostgreSQL log every statement within this block."""
    await tables.log_statements(True)
    await asyncio.sleep(_SETTLE_SECONDS)
    try:
        yield
    finally:
        await tables.log_statements(False)


async def count_on_postgresql(
    scenario: Scenario, workers: Mapping[str, Worker], tables: Tables
) -> dict[str, Statements]:
    """Count the statements of each application for one request of a scenario, after a warm-up.

    Call it within `logging`.
    """
    counted = {}
    for name in scenario.apps:
        if name not in workers or APPS[name].on_sqlite:
            continue
        recipe = recipe_for(scenario, _WARM_UP + _REQUESTS, workers[name].cursors)
        await tables.reset(scenario.rows_for(_WARM_UP + _REQUESTS), will_write=scenario.writes)
        await workers[name].do("turn", recipe, 0, _WARM_UP)
        start = tables.log.stat().st_size
        await workers[name].do("turn", recipe, _WARM_UP, _REQUESTS)
        await asyncio.sleep(_WRITE_SECONDS)
        counted[name] = sort_out(logged(_tail(tables.log, start))).per_request(_REQUESTS)
    return counted


async def count_on_sqlite(names: Iterable[str], places: Places) -> dict[str, Statements]:
    """Count the statements of reading one row on SQLite, in processes of their own, because a trace costs time."""
    recipe = recipe_for(SCENARIOS["read_one"], _REQUESTS)
    counted = {}
    for name in names:
        async with Worker.started(name, places, "--trace") as worker:
            await worker.do("turn", recipe, 0, _REQUESTS)
            answer = await worker.do("trace", recipe, 0, _REQUESTS)
        if answer["statements"]:  # The application does not use the traced sqlite3.connect.
            counted[name] = sort_out(answer["statements"]).per_request(_REQUESTS)
    return counted


def _tail(path: Path, start: int) -> str:
    with path.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")
