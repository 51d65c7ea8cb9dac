"""Measure the cost of finding the last route of the last module, in process."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from threading import Thread

from bench.claims.reporting import Finding, interleaved, say
from bench.growth.project import last_path
from bench.growth.worker import Worker, worker

_MOST_RATIO = 1.1


def measure_routing(
    projects: Mapping[int, Path], routes: int, variables: Mapping[str, str], logs: Path, *, quick: bool
) -> list[Finding]:
    """Measure CPU per request with few modules and with many, of the kernel's application and of a bare FastAPI.

    `projects` are two projects by their number of modules. The four applications run in processes of their own, in
    turns.
    """
    few, many = sorted(projects)
    turns = 5 if quick else 15
    # A turn of the fastest application takes tens of milliseconds, one of the slowest at most a second.
    calls = {"kernel": 500, "bare": 100} if quick else {"kernel": 2_000, "bare": 300}
    with ExitStack() as stack:
        workers: dict[str, tuple[Worker, str]] = {}
        for kind in ("kernel", "bare"):
            for modules, project in projects.items():
                name = f"{kind}-{modules}"
                say(f"routing: starting {name}")
                opened = worker(project, variables, logs / f"{name}.log", bare=kind == "bare")
                workers[name] = stack.enter_context(opened), last_path(modules, routes)
        _warm_up(workers)
        say(f"routing: {turns} turns")
        figures = interleaved(
            turns, {name: partial(_cpu, *one, calls[name.partition("-")[0]]) for name, one in workers.items()}
        )
    cost = {name: median(turn) * 1e6 for name, turn in figures.items()}
    # Many turns, so that one during which the machine was busy has little effect.
    ratio = {
        kind: median(a / b for a, b in zip(figures[f"{kind}-{many}"], figures[f"{kind}-{few}"], strict=True))
        for kind in ("kernel", "bare")
    }
    return [
        Finding(
            f"CPU of a request to the last route of {many} modules, against that of {few}",
            f"at most {_MOST_RATIO:g} times",
            f"{ratio['kernel']:.2f} times: {cost[f'kernel-{many}']:.0f} µs against {cost[f'kernel-{few}']:.0f} µs",
            "yes" if ratio["kernel"] <= _MOST_RATIO else "no",
            {"ratio": ratio["kernel"], "many_us": cost[f"kernel-{many}"], "few_us": cost[f"kernel-{few}"]},
        ),
        Finding(
            "the same routers in a bare FastAPI",
            "for comparison",
            f"{ratio['bare']:.2f} times: {cost[f'bare-{many}']:.0f} µs against {cost[f'bare-{few}']:.0f} µs",
            "for information",
            {"ratio": ratio["bare"], "many_us": cost[f"bare-{many}"], "few_us": cost[f"bare-{few}"]},
        ),
    ]


def _warm_up(workers: Mapping[str, tuple[Worker, str]]) -> None:
    """Wait until all have started, which they do in parallel, and let each answer a few requests."""
    failures: list[str] = []

    def prepare(name: str, one: Worker, path: str) -> None:
        one.wait_until_started()
        status = one.call(path, 20).status
        if status != 200:
            failures.append(f"{name} answers {status} on {path}")

    threads = [Thread(target=prepare, args=(name, *one)) for name, one in workers.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError("; ".join(failures))


def _cpu(one: Worker, path: str, calls: int) -> float:
    return one.call(path, calls).cpu_seconds / calls
