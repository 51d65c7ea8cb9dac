"""Measure CPU per request without a socket: one worker process for each application, in turns."""

import asyncio
import json
import statistics
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.apps.registry import APPS, Places, environment
from bench.database import ROOT, Tables
from bench.errors import BenchmarkError
from bench.machine import APP_CORE, pin
from bench.scenarios import Recipe, Scenario, recipe_for

# A turn is repeated if the machine was slower than usual by this factor.
_TOLERANCE = 1.12
_PIPE_BYTES = 8 << 20


class Worker:
    """An application in a process of its own, seen from this process."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self._log = log
        self.cursors: list[str] = []
        self._process = process

    @classmethod
    @asynccontextmanager
    async def started(cls, name: str, places: Places, *options: str) -> "AsyncIterator[Worker]":
        """Start it and wait until it is ready. Raises BenchmarkError with its output."""
        log = places.logs / f"worker-{name}.log"
        with log.open("a") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "bench.worker", name, *options),
                cwd=ROOT,
                env=environment(APPS[name], places),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                limit=_PIPE_BYTES,
            )
        worker = cls(name, process, log)
        try:
            await worker._read()
            pin(process.pid, APP_CORE)
            yield worker
        finally:
            assert process.stdin is not None  # noqa: S101  # for the type checker: it is a pipe
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def do(self, command: str, recipe: Recipe, first: int = 0, count: int = 1) -> dict[str, Any]:
        """Send a command and return its answer. Raises BenchmarkError."""
        assert self._process.stdin is not None  # noqa: S101  # for the type checker: it is a pipe
        message = {"do": command, "recipe": recipe.as_dict(), "first": first, "count": count}
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        await self._process.stdin.drain()
        return await self._read()

    def last_logged(self) -> str:
        """Return the end of the application's log."""
        return self._log.read_text(errors="replace")[-2000:]

    async def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101  # for the type checker: it is a pipe
        line = await self._process.stdout.readline()
        if not line:
            raise BenchmarkError(f"the process of {self.name} ended by itself:\n{self.last_logged()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchmarkError(f"{answer['error']}\n{self.last_logged()}")
        return answer


@asynccontextmanager
async def workers(names: Sequence[str], places: Places) -> AsyncIterator[dict[str, Worker]]:
    """Start a worker for each application, all in parallel."""
    async with AsyncExitStack() as stack:
        entered = [stack.enter_async_context(Worker.started(name, places)) for name in names]
        started = await asyncio.gather(*entered, return_exceptions=True)
        for worker in started:
            if isinstance(worker, BaseException):
                raise worker
        yield {worker.name: worker for worker in started if isinstance(worker, Worker)}


async def find_cursors(worker: Worker, pages: int = 8) -> None:
    """Return an application's own cursors, found by reading its list page by page."""
    cursor = ""
    while len(worker.cursors) < pages:
        answer = await worker.do("show", Recipe("GET", f"/api/v1/events?limit=20&cursor={cursor}"))
        if answer["status"] != 200:
            raise BenchmarkError(
                f"{worker.name} answers {answer['status']} to the list: {answer['body'][:300]}\n{worker.last_logged()}"
            )
        cursor = json.loads(answer["body"])["next_cursor"]
        worker.cursors.append(cursor)


@dataclass
class Turn:
    """One turn of one application, in microseconds of CPU and of elapsed time per request."""

    scenario: str
    app: str
    round: int
    cpu_us: float
    wall_us: float
    requests: int
    # How much slower than usual the machine was in the slower of the spins before and after the turn.
    slowness: float
    repeats: int = 0

    @property
    def is_disturbed(self) -> bool:
        return self.slowness > _TOLERANCE


@dataclass
class Pace:
    """The machine's usual time for a spin in milliseconds, to detect disturbed turns.

    A disturbed turn is repeated at most `most_repeats` times; then the least disturbed one counts.
    """

    most_repeats: int
    spins: list[float] = field(default_factory=list)

    def slowness(self, spins: Sequence[Sequence[float]]) -> float:
        """Return the time in relation to the usual one.

        Elapsed time counts too, because a core that another process takes costs no CPU time of this one.
        """
        self.spins += [cpu for cpu, _ in spins]
        usual = statistics.median(sorted(self.spins)[: max(1, len(self.spins) // 2)])
        return max(max(cpu, wall) for cpu, wall in spins) / usual


async def measure(
    scenario: Scenario, started: dict[str, Worker], tables: Tables, *, rounds: int, requests: int, pace: Pace
) -> list[Turn]:
    """Run `rounds` interleaved turns of each application that supports the scenario."""
    names = [name for name in scenario.apps if name in started]
    turns: list[Turn] = []
    for number in range(rounds):
        # Each application is the first one equally often.
        shift = number % len(names) if names else 0
        for name in names[shift:] + names[:shift]:
            count = max(10, round(requests * scenario.scale * APPS[name].more))
            turn = await _turn(scenario, started[name], tables, number, count, pace)
            turns.append(turn)
    return turns


async def _turn(scenario: Scenario, worker: Worker, tables: Tables, number: int, count: int, pace: Pace) -> Turn:
    warm_up = max(20, count // 4)
    best: Turn | None = None
    for repeat in range(pace.most_repeats + 1):
        asked = warm_up + count
        recipe = recipe_for(scenario, asked, worker.cursors)
        await tables.reset(scenario.rows_for(asked), will_write=scenario.writes)
        for first, requests in ((0, warm_up), (warm_up, count)):
            answer = await worker.do("turn", recipe, first, requests)
            if answer["failed"]:
                shown = await worker.do("show", recipe, first)
                raise BenchmarkError(
                    f"{worker.name} failed {answer['failed']} of {requests} requests of {scenario.name!r}; asked again "
                    f"it answers {shown['status']}: {shown['body'][:300]}\n{worker.last_logged()}"
                )
        slowness = pace.slowness(answer["spins"])
        turn = Turn(
            scenario.name, worker.name, number, answer["cpu_us"], answer["wall_us"], count, round(slowness, 3), repeat
        )
        if best is None or turn.slowness < best.slowness:
            best = turn
        if not turn.is_disturbed:
            break
    assert best is not None  # noqa: S101  # for the type checker: the loop runs at least once
    best.repeats = repeat
    return best
