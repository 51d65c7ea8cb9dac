"""Measure requests per second over a socket: every application on uvicorn with one worker, and a load generator."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench import load
from bench.database import Tables
from bench.machine import Processes
from bench.scenarios import PATCHED_ROWS, Scenario, recipe_for
from bench.servers import CONNECTIONS, Generator, Server

# Seconds until the last requests of a run have ended, so that they do not overlap with the next run.
_SETTLE_SECONDS = 0.1
# More rows than any application can change or delete. A run may be this much faster than the previous one, because the
# warm-up uses the slower generator.
_MOST_A_SECOND = 25_000
_AFTER_WARM_UP, _AFTER_A_RUN = 3, 1.5
# A run is repeated if other processes used more than this share of a core.
_MOST_FOREIGN = 0.10


@dataclass
class Load:
    """The result of one run of the load generator on one application."""

    scenario: str
    app: str
    round: int
    requests: int
    seconds: float
    per_second: float
    p50_ms: float
    p99_ms: float
    # Answers without success, broken connections, and answers that took too long.
    failed: int
    broken: int
    late: int
    cpu_us: float | None
    # The share of its core that the application used; well below 1, another resource was the limit.
    busy: float | None
    # The share of a core that unrelated processes used during the run.
    foreign: float | None
    # Connections to the database that were opened during the run. A warm pool opens none.
    opened: int
    repeats: int = 0

    @property
    def errors(self) -> int:
        return self.failed + self.broken + self.late

    @property
    def is_disturbed(self) -> bool:
        return (self.foreign or 0) > _MOST_FOREIGN


@dataclass(frozen=True)
class Effort:
    """The duration and number of runs of each application."""

    rounds: int
    seconds: float
    warm_up_seconds: float
    most_repeats: int


async def measure(
    scenario: Scenario,
    started: Mapping[str, Server],
    tables: Tables,
    generator: Generator,
    effort: Effort,
    say: Callable[[str], None],
) -> list[Load]:
    """Run some interleaved rounds of each application that supports the scenario."""
    names = [name for name in scenario.apps if name in started]
    loads: list[Load] = []
    usual: dict[str, float] = {}
    for number in range(effort.rounds):
        if effort.rounds > 1:
            say(f"  {scenario.title}: round {number + 1} of {effort.rounds}")
        # Each application is the first one equally often.
        shift = number % len(names) if names else 0
        for name in names[shift:] + names[:shift]:
            if name not in usual:
                warm = await _warm_up(scenario, started[name], tables, effort.warm_up_seconds)
                usual[name] = warm * _AFTER_WARM_UP
            wanted = max(PATCHED_ROWS, int(usual[name] * (effort.seconds + 1)))
            measured = await _least_disturbed(scenario, started[name], tables, generator, number, wanted, effort)
            usual[name] = measured.per_second * _AFTER_A_RUN
            loads.append(measured)
    return loads


async def _warm_up(scenario: Scenario, server: Server, tables: Tables, seconds: float) -> float:
    """Open the pool's connections and fill the caches, with the same number of connections.

    Return requests per second.
    """
    wanted = int(_MOST_A_SECOND * seconds)
    await tables.reset(scenario.rows_for(wanted), will_write=scenario.writes)
    recipe = recipe_for(scenario, wanted, server.cursors)
    figures = await load.run(recipe, f"127.0.0.1:{server.port}", CONNECTIONS, seconds)
    await asyncio.sleep(_SETTLE_SECONDS)
    return figures["requests"] / seconds


async def _least_disturbed(
    scenario: Scenario,
    server: Server,
    tables: Tables,
    generator: Generator,
    number: int,
    wanted: int,
    effort: Effort,
) -> Load:
    """Return one run, repeated while other processes use the machine.

    A run with errors is not repeated, because the application may cause them.
    """
    runs: list[Load] = []
    for _ in range(effort.most_repeats + 1):
        runs.append(await _run(scenario, server, tables, generator, number, wanted, effort.seconds))
        if runs[-1].errors or not runs[-1].is_disturbed:
            break
    best = runs[-1] if runs[-1].errors else min(runs, key=lambda run: run.foreign or 0)
    best.repeats = len(runs) - 1
    return best


async def _run(
    scenario: Scenario,
    server: Server,
    tables: Tables,
    generator: Generator,
    number: int,
    wanted: int,
    seconds: float,
) -> Load:
    recipe = recipe_for(scenario, wanted, server.cursors)
    await tables.reset(scenario.rows_for(wanted), will_write=scenario.writes)
    server.forget_log()
    opened = await tables.connections_opened()
    processes = Processes(server.pid, tables.server_pid)
    figures = await generator.run(recipe, server.port, seconds)
    used, foreign = processes.since()
    await asyncio.sleep(_SETTLE_SECONDS)
    requests, lasted = int(figures["requests"]), figures["seconds"]
    return Load(
        scenario=scenario.name,
        app=server.name,
        round=number,
        requests=requests,
        seconds=lasted,
        per_second=requests / lasted,
        p50_ms=figures["p50_ms"],
        p99_ms=figures["p99_ms"],
        failed=int(figures["failed"]),
        broken=int(figures["broken"]),
        late=int(figures["late"]),
        cpu_us=used / requests * 1e6 if used is not None and requests else None,
        busy=None if used is None else used / lasted,
        foreign=None if foreign is None else round(max(0.0, foreign / lasted), 3),
        opened=await tables.connections_opened() - opened,
    )
