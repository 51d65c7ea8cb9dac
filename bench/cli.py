"""The command line: what is measured, in which order, and where the figures are written."""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import answers, inprocess, served, servers, statements
from bench.apps.registry import APPS, Places
from bench.database import Tables, databases
from bench.errors import BenchmarkError
from bench.inprocess import Pace
from bench.machine import describe
from bench.report import Results
from bench.scenarios import ON_SQLITE, SCENARIOS, Scenario
from bench.served import Effort
from bench.targets import Spread, ratios

_RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Plan:
    """The amount of work. `requests` are those of a turn that reads one row; other scenarios scale it."""

    scenarios: tuple[Scenario, ...]
    served: tuple[Scenario, ...]
    apps: tuple[str, ...]
    rounds: int
    requests: int
    most_repeats: int
    effort: Effort
    may_use_wrk: bool


class Progress:
    """Prints the current step with the seconds since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, text: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - self._started:4.0f} s] {text}\n")
        sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Return 1 if a step failed; a slow scenario or a missed target is not a failure."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    plan = _plan(options)
    say = Progress()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            say("starting PostgreSQL, migrating, filling the tables")
            with databases(Path(folder)) as places:
                results = asyncio.run(_run(plan, places, given, say))
        except BenchmarkError as error:
            sys.stderr.write(f"\nThe benchmark stopped: {error}\n")
            return 1
    _write(results, options.json, is_whole=not {*given} - {"--json", options.json})
    failed = sum(load.errors for load in results.loads if APPS[load.app].is_ours)
    if failed:
        sys.stderr.write(f"\nOurs answered with {failed} errors under load.\n")
    return 1 if failed else 0


async def _run(plan: Plan, places: Places, given: Sequence[str], say: Progress) -> Results:
    async with Tables.connect(places) as tables:
        generator = servers.Generator(places.logs, may_use_wrk=plan.may_use_wrk)
        told = {"arguments": "".join(f" {argument}" for argument in given), "generator": generator.name}
        results = Results(describe(await tables.server_version()), told)
        say(f"starting {', '.join(plan.apps)}")
        cursors = await _in_process(plan, places, tables, results, say)
        if plan.served:
            await _served(plan, places, tables, generator, cursors, results, say)
    return results


async def _in_process(
    plan: Plan, places: Places, tables: Tables, results: Results, say: Progress
) -> dict[str, list[str]]:
    """Compare the answers, count statements and measure CPU.

    Return each application's own cursors, which the served part needs.
    """
    async with inprocess.workers(plan.apps, places) as started:
        for scenario in plan.scenarios:
            for name in scenario.apps if scenario.name == "list_cursor" else ():
                if name in started:
                    await inprocess.find_cursors(started[name])
        for scenario in plan.scenarios:
            await answers.check(scenario, started, tables)
        say(f"all answers are alike: {', '.join(scenario.title for scenario in plan.scenarios)}")
        async with statements.logging(tables):
            for scenario in plan.scenarios:
                sent = await statements.count_on_postgresql(scenario, started, tables)
                if scenario.name == "read_one":
                    sent |= await statements.count_on_sqlite([name for name in ON_SQLITE if name in started], places)
                results.statements[scenario.name] = sent
                say(f"statements, {scenario.title}: " + ", ".join(f"{app} {count}" for app, count in sent.items()))
        pace = Pace(plan.most_repeats)
        for scenario in plan.scenarios if plan.rounds else ():
            turns = await inprocess.measure(
                scenario, started, tables, rounds=plan.rounds, requests=plan.requests, pace=pace
            )
            results.turns += turns
            repeats = sum(turn.repeats for turn in turns)
            say(
                f"in process, {scenario.title}: {_line(results, scenario, is_served=False)}"
                + (f"; {repeats} disturbed turns repeated" if repeats else "")
            )
        return {name: worker.cursors for name, worker in started.items()}


async def _served(
    plan: Plan,
    places: Places,
    tables: Tables,
    generator: servers.Generator,
    cursors: dict[str, list[str]],
    results: Results,
    say: Progress,
) -> None:
    say(f"serving all with uvicorn; the load comes from {generator.name}")
    async with AsyncExitStack() as stack:
        started = await stack.enter_async_context(servers.servers(plan.apps, places, cursors))
        for scenario in plan.served:
            loads = await served.measure(scenario, started, tables, generator, plan.effort, say)
            results.loads += loads
            repeats = sum(load.repeats for load in loads)
            say(
                f"served, {scenario.title}: {_line(results, scenario, is_served=True)}"
                + (f"; {repeats} disturbed runs repeated" if repeats else "")
            )
        results.memory = {name: (server.resident_at_start, server.resident_now) for name, server in started.items()}


def _line(results: Results, scenario: Scenario, *, is_served: bool) -> str:
    figures, unit = (results.rates, "/s") if is_served else (results.cpu, " µs")
    parts = []
    for app in scenario.apps:
        found = figures.get((scenario.name, app), ())
        spread = Spread.of([figure for figure in found if figure is not None])
        if not found:
            continue
        errors = sum(load.errors for load in results.loads if (load.scenario, load.app) == (scenario.name, app))
        parts.append(f"{app} ERRORS {errors}" if errors or spread is None else f"{app} {spread.middle:.0f}{unit}")
    for app, base in (("ours", "control"), ("ours-sqlite", "control-sqlite")):
        if (ratio := ratios(figures, scenario.name, app, base)) is not None:
            parts.append(f"{app} / {base} {ratio.text()}")
    return ", ".join(parts)


def _write(results: Results, also: str | None, *, is_whole: bool) -> None:
    """Write the figures. A whole run replaces the committed figures; any other run is written beside them."""
    name = "latest" if is_whole else "partial"
    text, values = results.markdown(), json.dumps(results.as_dict(), indent=1) + "\n"
    _RESULTS.mkdir(exist_ok=True)
    (_RESULTS / f"{name}.md").write_text(text)
    (_RESULTS / f"{name}.json").write_text(values)
    if also:
        Path(also).write_text(values)
    sys.stdout.write(f"\n{text}\nWritten to bench/results/{name}.md and {name}.json\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the application against others.")
    parser.add_argument("--quick", action="store_true", help="in about a minute: fewer and shorter turns")
    parser.add_argument("--only", type=_names, metavar="SCENARIO,...", help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--apps", type=_names, metavar="APP,...", help=f"of {', '.join(APPS)}")
    parser.add_argument("--rounds", type=int, help="turns of each application in each scenario")
    parser.add_argument("--json", metavar="FILE", help="write all figures there, too")
    parser.add_argument("--no-served", action="store_true", help="leave out requests per second")
    parser.add_argument("--no-inprocess", action="store_true", help="leave out CPU per request without a socket")
    parser.add_argument("--no-wrk", action="store_true", help="use the load generator in Python")
    return parser


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _plan(options: argparse.Namespace) -> Plan:
    names, apps = options.only or list(SCENARIOS), options.apps or list(APPS)
    if unknown := [name for name in names if name not in SCENARIOS] + [name for name in apps if name not in APPS]:
        sys.exit(f"There is no {unknown[0]}. Scenarios: {', '.join(SCENARIOS)}. Applications: {', '.join(APPS)}.")
    scenarios = tuple(scenario for scenario in SCENARIOS.values() if scenario.name in names)
    to_serve = tuple(scenario for scenario in scenarios if not options.quick or options.only or scenario.quick)
    quick = bool(options.quick)
    return Plan(
        scenarios=scenarios,
        served=() if options.no_served else to_serve,
        apps=tuple(name for name in APPS if name in apps and any(name in scenario.apps for scenario in scenarios)),
        rounds=0 if options.no_inprocess else options.rounds or (2 if quick else 7),
        requests=50 if quick else 300,
        most_repeats=1 if quick else 3,
        effort=Effort(
            rounds=options.rounds or (1 if quick else 3),
            seconds=1 if quick else 3,
            warm_up_seconds=0.1 if quick else 1,
            most_repeats=0 if quick else 1,
        ),
        may_use_wrk=not options.no_wrk,
    )
