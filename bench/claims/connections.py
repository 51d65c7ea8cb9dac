"""Claim: one process holds 10,000 connections, each of which waits for a slow operation."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.claims.crowd import CONNECTS_PER_SECOND, SPARE_FILES, Outcome, Plan, crowd, request
from bench.claims.processes import (
    allow_open_files,
    answering,
    cpu_seconds,
    environment,
    free_port,
    peak_rss_mib,
    serving,
)
from bench.claims.reporting import Finding, Verdict, say, verdict

_CLAIMED = 10_000
_MOST_SECONDS = 4.0
_MOST_MIB = 300.0

_MODULE = {
    "modules/__init__.py": "",
    "modules/slow/__init__.py": '"""Waits."""\n',
    "modules/slow/module.py": 'from kernel import Module\n\nmodule = Module(owner="bench")\n',
    "modules/slow/router.py": """
import asyncio

from fastapi import APIRouter

router = APIRouter()

@router.get("/ready")
async def ready() -> bool:
    return True

@router.get("")
async def wait() -> dict[str, str]:
    await asyncio.sleep(1)
    return {"waited": "1 s"}
""",
    "bare.py": """
from fastapi import FastAPI

from modules.slow.router import router

app = FastAPI()
app.include_router(router, prefix="/api/v1/slow")
""",
}
_PATH = "/api/v1/slow"


@dataclass(frozen=True)
class Turn:
    """The results of one crowd, and the resources that the server used."""

    outcome: Outcome
    cpu_seconds: float
    peak_mib: float


def measure_connections(folder: Path, *, quick: bool) -> Finding:
    """Compare the kernel's application with a bare FastAPI. Each turn starts a new process."""
    count = 1_000 if quick else _CLAIMED
    possible = allow_open_files(count + SPARE_FILES) - SPARE_FILES
    if possible < count:
        say(f"the limit of open files allows {possible:,} connections only: raise it with `ulimit -n`")
        count = possible
    for name, text in _MODULE.items():
        file = folder / "slow" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found: dict[str, list[Turn]] = {"kernel": [], "bare": []}
    turns = 1 if quick else 3
    for number in range(turns):
        for kind, its_turns in found.items():
            say(f"{count:,} connections: turn {number + 1} of {turns}, {kind}")
            its_turns.append(_once(kind, count, folder))
    return summary(found, count)


def summary(found: Mapping[str, list[Turn]], count: int) -> Finding:
    """Return the row: median seconds, largest memory and smallest number of answers of all turns."""
    seconds = {kind: median(turn.outcome.seconds for turn in turns) for kind, turns in found.items()}
    cpu = {kind: median(turn.cpu_seconds for turn in turns) for kind, turns in found.items()}
    peak = {kind: max(turn.peak_mib for turn in turns) for kind, turns in found.items()}
    answered = {kind: min(turn.outcome.statuses.get(200, 0) for turn in turns) for kind, turns in found.items()}
    held = {kind: min(turn.outcome.most_open for turn in turns) for kind, turns in found.items()}
    shown = (
        f"{kind}: {answered[kind]:,} of {count:,} answered, {held[kind]:,} open at once, {seconds[kind]:.1f} s "
        f"({cpu[kind]:.1f} s of CPU), peak {peak[kind]:.0f} MiB"
        for kind in found
    )
    holds: Verdict = verdict(seconds["kernel"] <= _MOST_SECONDS, peak["kernel"] <= _MOST_MIB)
    if answered["kernel"] < count:
        holds = "no"
    elif count < _CLAIMED:
        holds = "partly"
    fewer = "" if count == _CLAIMED else f" (not {_CLAIMED:,}: with --quick, or for want of open files)"
    return Finding(
        "10,000 connections in one process",
        f"{count:,} connections{fewer} that arrive at {CONNECTS_PER_SECOND:,} a second, each request waits 1 s; one "
        f"worker, JSON logs (bare: none), loopback; aims: first connect to last answer within {_MOST_SECONDS:g} s, "
        f"peak at most {_MOST_MIB:g} MiB",
        "; ".join(shown),
        holds,
        {
            "connections": count,
            "answered": answered,
            "open_at_once": held,
            "seconds": seconds,
            "all_seconds": {kind: [turn.outcome.seconds for turn in turns] for kind, turns in found.items()},
            "cpu_seconds": cpu,
            "peak_mib": peak,
        },
    )


def _once(kind: str, count: int, folder: Path) -> Turn:
    project, log, ready = folder / "slow", folder / f"slow-{kind}.log", f"{_PATH}/ready"
    if kind == "kernel":
        # A production server refuses SQLite. No module has a table, so nothing connects to this database.
        variables = environment(
            folder,
            ENVIRONMENT="dev",
            APPLICATION_DEBUG="false",
            AUTH_ENABLED="false",
            DATABASE_URL="postgresql:///none?host=/nowhere",
        )
        context = serving(project, ready, variables, log)
    else:
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "bare:app", "--port", str(port), "--no-access-log"]
        context = answering(command, project, port, ready, environment(folder), log)
    with context as server:
        cpu_before = cpu_seconds(server.pid)
        outcome = crowd(Plan(server.port, count, (request(_PATH),)))
        return Turn(outcome, cpu_seconds(server.pid) - cpu_before, peak_rss_mib(server.pid))
