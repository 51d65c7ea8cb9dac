"""Processes that stop, restart and die under load. Guards against requests that are lost with them."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

import httpx2

from tests.core.waiting import until
from tests.faults.balancer import Balancer
from tests.faults.harness import Result, end, free_port, until_serving
from tests.faults.served import Served, children, project

Scenario = Callable[[Path, str, bool], Awaitable[list[Result]]]

_CLIENTS = 8
# Longer than a balancer needs to notice.
_DRAIN = {"SERVER_DRAIN_SECONDS": "1"}


@dataclass
class Load:
    """Clients that read and write in turns, and their results."""

    url: str
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    acknowledged: set[int] = field(default_factory=set)
    numbers: "count[int]" = field(default_factory=count)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        clients = [asyncio.create_task(self._keep_on()) for _ in range(_CLIENTS)]
        try:
            yield
        finally:
            for task in clients:
                task.cancel()
            await asyncio.gather(*clients, return_exceptions=True)

    async def _keep_on(self) -> None:
        async with httpx2.AsyncClient(timeout=10) as client:
            for number in self.numbers:
                writes = number % 4 == 0
                try:
                    answer = (
                        await client.post(self.url, params={"number": number}) if writes else await client.get(self.url)
                    )
                except httpx2.HTTPError as error:
                    self.failures.append(repr(error))
                    await asyncio.sleep(0.02)
                    continue
                if answer.status_code >= 400:
                    self.failures.append(str(answer.status_code))
                elif writes:
                    self.acknowledged.add(number)
                self.answered += 1
                await asyncio.sleep(0.01)

    async def lost(self, here: Served) -> int:
        """Return how many acknowledged writes are missing, by the rows that another route counts."""
        async with httpx2.AsyncClient() as client:
            there = (await client.get(f"{here.url}/api/v1/work/all", timeout=30)).json()
        return len(self.acknowledged - set(there))


async def rolling_restarts(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """Two processes restart one after the other behind a balancer.

    (Naive: without a drain it sends to a closed port.)
    """
    rounds = 1 if quick else 20
    results = []
    for drain, times in (("1", rounds), ("0", 2 if quick else 3)):
        here = project(folder / f"drain{drain}", database_url, SERVER_DRAIN_SECONDS=drain)
        ports = [free_port(), free_port()]
        balancer = Balancer(ports)
        load = Load(f"http://127.0.0.1:{balancer.port}/api/v1/work")
        codes: list[int] = []
        with ExitStack() as stack:
            processes = []
            for port in ports:
                processes.append(stack.enter_context(here.process(port=port)))
                await until_serving(port)
            async with balancer.running():
                await _until_ready(balancer, ports)
                async with load.running():
                    for _ in range(times):
                        for place, port in enumerate(ports):
                            processes[place].terminate()
                            codes.append(await asyncio.to_thread(processes[place].wait, 30))
                            processes[place] = stack.enter_context(here.process(port=port))
                            await _until_ready(balancer, ports)
                here.port = ports[0]
                lost = await load.lost(here)
        is_naive = drain == "0"
        failed = len(load.failures)
        results.append(
            Result("rolling restarts" + (" without a drain (naive)" if is_naive else ""), here.kind,
                   f"{times} of two processes, {load.answered:,} requests", f"{len(codes)} stops",
                   f"{failed} failed, {lost} writes lost, exit codes {set(codes)}",
                   "at least 1 failed" if is_naive else "0 failed, 0 lost, {0}",
                   holds=lost == 0 and set(codes) == {0} and (failed > 0) is is_naive and load.answered > 50)
        )  # fmt: skip
    return results


async def _until_ready(balancer: Balancer, ports: list[int]) -> None:
    async def all_ready() -> bool:
        return balancer.ready == set(ports)

    await until(all_ready)


async def hangups(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """SIGHUP replaces two workers one after the other. (uvicorn closes connections that are about to be used.)"""
    times = 1 if quick else 5
    here = project(folder, database_url, **_DRAIN)
    load = Load(f"{here.url}/api/v1/work")
    with here.process("--workers", "2") as process:
        await until_serving(here.port)
        await until(lambda: _has_started(here, 2))
        seen: set[int] = set()
        async with load.running():
            for _ in range(times):
                old = set(children(process.pid))
                seen |= old
                process.send_signal(signal.SIGHUP)
                await until(lambda old=old: _replaced(process, old), 60)  # type: ignore[misc]  # a default binds it
        replaced = len(seen - set(children(process.pid)))
        lost = await load.lost(here)
        process.terminate()
        code = await asyncio.to_thread(process.wait, 30)
    return [
        Result("SIGHUP with two workers", here.kind, f"{times} times, {load.answered:,} requests",
               f"{replaced} workers replaced", f"{len(load.failures)} failed, {lost} writes lost, exit code {code}",
               "0 failed, 0 lost, 0", holds=not load.failures and lost == 0 and code == 0 and replaced >= 2 * times)
    ]  # fmt: skip


async def _replaced(process: subprocess.Popen[bytes], old: set[int]) -> bool:
    now = set(children(process.pid))
    return len(now) == 2 and not now & old


async def killed_workers(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """kill -9 of one of two workers: only its own requests are lost, and another worker replaces it.

    Naive: FastAPI's background tasks, acknowledged and not yet run; 130 of 3,834 were lost in 20 kills.
    """
    times = 2 if quick else 10
    here = project(folder, database_url, **_DRAIN)
    load = Load(f"{here.url}/api/v1/work")
    kills = 0
    seconds = []
    with here.process("--workers", "2") as process:
        await until_serving(here.port)
        await until(lambda: _has_started(here, 2))
        async with load.running():
            for _ in range(times):
                await asyncio.sleep(0.3)
                started = here.journal.count("opened")
                began_at = time.monotonic()
                os.kill(children(process.pid)[0], signal.SIGKILL)
                kills += 1
                await until(lambda started=started: _has_started(here, started + 1))  # type: ignore[misc]  # as above
                seconds.append(time.monotonic() - began_at)
        lost = await load.lost(here)
    failed = len(load.failures)
    return [
        Result("kill -9 of a worker", here.kind, f"{times} times, {load.answered:,} requests", f"{kills} killed",
               f"{failed} failed, {lost} writes lost; replaced in {max(seconds):.1f} s",
               f"at most {_CLIENTS} in work each time, 0 lost, 10 s",
               holds=failed <= _CLIENTS * times and lost == 0 and max(seconds) < 10)
    ]  # fmt: skip


async def _has_started(here: Served, processes: int) -> bool:
    return here.journal.count("opened") >= processes


async def _has_request(here: Served) -> bool:
    return "the request waits" in here.said


async def killed_supervisor(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """kill -9 of the supervisor: its workers end too. (uvicorn's workers continue and hold the port.)"""
    times = 1 if quick else 3
    here = project(folder, database_url, **_DRAIN)
    left, seconds = 0, []
    for place in range(1, times + 1):
        with here.process("--workers", "2") as process:
            await until_serving(here.port)
            await until(lambda place=place: _has_started(here, 2 * place))  # type: ignore[misc]  # as above
            workers = children(process.pid)
            end(process)
            began_at = time.monotonic()
            with suppress(TimeoutError):
                await until(lambda workers=workers: _are_gone(workers), 15)  # type: ignore[misc]  # as above
            seconds.append(time.monotonic() - began_at)
            left += sum(Path(f"/proc/{pid}").exists() for pid in workers)  # noqa: ASYNC240  # no disk is asked
    return [
        Result("kill -9 of the supervisor", here.kind, f"{times} times", f"{times} killed",
               f"{left} workers live on; the last ended after {max(seconds):.1f} s", "0, 5 s",
               holds=left == 0 and max(seconds) < 5)
    ]  # fmt: skip


async def _are_gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)  # noqa: ASYNC240  # no disk is asked


async def budgets(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """Requests in progress have their time and are then cut; code that does not close does not delay the end.

    (uvicorn waits for ever.)
    """
    del quick
    short = {"SERVER_GRACEFUL_SHUTDOWN_TIMEOUT_SECONDS": "1", "SERVER_CLOSE_TIMEOUT_SECONDS": "1"}
    cases = {
        "in work for 1 s": ("1", {}, 1, 200),
        "in work for 60 s, budget 1 s": ("60", short, 1, 503),
        "in work for 60 s, two signals": ("60", {}, 2, 503),
        "a module that closes in 60 s": ("0.3", short | {"WORK_CLOSES_IN_SECONDS": "60"}, 1, 200),
    }
    results = []
    for name, (seconds, variables, signals, wanted) in cases.items():
        here = project(folder / name.replace(" ", "_"), database_url, **variables)
        with here.process() as process:
            await until_serving(here.port)
            async with httpx2.AsyncClient(timeout=30) as client:
                asked = asyncio.create_task(client.get(f"{here.url}/api/v1/work/waited", params={"seconds": seconds}))
                await until(partial(_has_request, here))
                began_at = time.monotonic()
                for _ in range(signals):
                    process.terminate()
                    await asyncio.sleep(0.3)
                status = (await asked).status_code
            code = await asyncio.to_thread(process.wait, 30)
            took = time.monotonic() - began_at
        results.append(
            Result(f"SIGTERM: {name}", here.kind, "1", f"closed: {here.journal.count('closed')}",
                   f"answered {status}, exit code {code}, {took:.1f} s", f"{wanted}, 0, 5 s",
                   holds=(status, code) == (wanted, 0) and took < 5 and here.journal == ["opened", "closed"])
        )  # fmt: skip
    return results


ON_POSTGRESQL = (rolling_restarts, hangups, killed_workers, killed_supervisor, budgets)
