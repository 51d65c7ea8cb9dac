"""The tables at the end, in Markdown, and all measurements as JSON."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.apps.registry import APPS, MAX_OVERFLOW, POOL_SIZE
from bench.inprocess import Turn
from bench.scenarios import SCENARIOS
from bench.served import Load
from bench.servers import CONNECTIONS
from bench.statements import Statements
from bench.targets import Figures, Spread, Verdict, judge, ratios

_LIMIT = "limit"


@dataclass
class Results:
    """All results of one run."""

    machine: dict[str, Any]
    options: dict[str, Any]
    turns: list[Turn] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    statements: dict[str, dict[str, Statements]] = field(default_factory=dict)
    # Resident memory in MiB by application, after the start and after all load.
    memory: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)

    @property
    def cpu(self) -> Figures:
        """Return CPU per request in process, in microseconds."""
        figures: dict[tuple[str, str], list[float | None]] = {}
        for turn in sorted(self.turns, key=lambda turn: turn.round):
            figures.setdefault((turn.scenario, turn.app), []).append(turn.cpu_us)
        return figures

    @property
    def rates(self) -> Figures:
        """Return requests per second; None for a run with errors."""
        figures: dict[tuple[str, str], list[float | None]] = {}
        for load in sorted(self.loads, key=lambda load: load.round):
            figures.setdefault((load.scenario, load.app), []).append(None if load.errors else load.per_second)
        return figures

    def verdicts(self) -> list[Verdict]:
        """Return the verdicts for the targets of measured scenarios."""
        found = judge(self.cpu, self.rates, self.statements)
        return [verdict for verdict in found if verdict.reached is not None]

    def as_dict(self) -> dict[str, Any]:
        """Return the results for JSON."""
        return {
            "machine": self.machine,
            "options": self.options,
            "targets": [asdict(verdict) for verdict in self.verdicts()],
            "statements": {
                scenario: {app: asdict(sent) for app, sent in sents.items()}
                for scenario, sents in self.statements.items()
            },
            "memory_mib": {app: {"start": start, "end": end} for app, (start, end) in self.memory.items()},
            "in_process": [asdict(turn) for turn in self.turns],
            "served": [asdict(load) for load in self.loads],
        }

    def markdown(self) -> str:
        """Return the tables in Markdown, with the conditions of the run."""
        parts = ["# Benchmark", _about(self.machine, self.options), _applications(self._apps())]
        if verdicts := self.verdicts():
            parts += ["## Targets", _targets(verdicts)]
        if self.turns or self.statements:
            parts += ["## CPU per request, in process", _IN_PROCESS + _disturbed(self.turns), self._in_process()]
        if self.loads:
            parts += ["## Served", _served_text(self.options) + _disturbed(self.loads), self._served()]
        return "\n\n".join(parts) + "\n"

    def _apps(self) -> list[str]:
        seen = {turn.app for turn in self.turns} | {load.app for load in self.loads}
        seen |= {app for sents in self.statements.values() for app in sents}
        return [name for name in APPS if name in seen]

    def _in_process(self) -> str:
        rows = []
        for scenario in SCENARIOS.values():
            sents = self.statements.get(scenario.name, {})
            for app in scenario.apps:
                spread = Spread.of(_given(self.cpu.get((scenario.name, app), ())))
                if spread is None and app not in sents:
                    continue
                columns = [_shown(spread, 0)]
                columns += [_ratio(self.cpu, scenario.name, app, base) for base in (_control_of(app), _LIMIT)]
                rows.append([scenario.title, app, *columns, str(sents.get(app, "-"))])
        return _table(("", "application", "CPU µs", "/ control", "/ limit", "statements"), rows)

    def _served(self) -> str:
        rows = []
        for scenario in SCENARIOS.values():
            for app in scenario.apps:
                loads = [load for load in self.loads if (load.scenario, load.app) == (scenario.name, app)]
                if loads:
                    rows.append([scenario.title, app, *self._load_columns(loads), self._memory(app)])
        head = (
            "",
            "application",
            "requests/s",
            "/ control",
            "/ limit",
            "p50 ms",
            "p99 ms",
            "CPU µs",
            "busy",
            "opened/s",
            "RSS MiB",
        )
        return _table(head, rows)

    def _load_columns(self, loads: Sequence[Load]) -> list[str]:
        scenario, app = loads[0].scenario, loads[0].app
        if any(load.errors for load in loads):
            answers = sum(load.requests for load in loads)
            return [f"**errors {sum(load.errors for load in loads)} of {answers}**", *("-" * 7)]
        return [
            _shown(Spread.of([load.per_second for load in loads]), 0),
            *(_ratio(self.rates, scenario, app, base) for base in (_control_of(app), _LIMIT)),
            _shown(Spread.of([load.p50_ms for load in loads]), 1),
            _shown(Spread.of([load.p99_ms for load in loads]), 1),
            _shown(Spread.of(_given(load.cpu_us for load in loads)), 0),
            _shown(Spread.of([100 * busy for busy in _given(load.busy for load in loads)]), 0, " %"),
            _shown(Spread.of([load.opened / load.seconds for load in loads]), 0),
        ]

    def _memory(self, app: str) -> str:
        start, end = self.memory.get(app, (None, None))
        return "-" if start is None or end is None else f"{start:.0f} → {end:.0f}"


_IN_PROCESS = (
    "The application is called without a socket, one request after the other, on a core of its own. Middle of all "
    "turns (least to greatest); ratios are formed round by round. Statements are those that the database received, "
    "counted exactly: `tx` are BEGIN, COMMIT and ROLLBACK, `ping` are empty ones that test a connection."
)


def _served_text(options: Mapping[str, Any]) -> str:
    return (
        f"uvicorn with one worker on a core of its own; {options['generator']} with {CONNECTIONS} connections and the "
        f"database share the other core. Every application has a pool of {POOL_SIZE} connections and {MAX_OVERFLOW} "
        "more under load. CPU is the server's, per request. Where `busy` is well below 100 %, the application waited: "
        "for the other core, or for connections. `opened/s` are new connections to the database; a warm pool needs "
        "none. RSS is that after the start and after everything."
    )


def _disturbed(measured: Sequence[Turn] | Sequence[Load]) -> str:
    """Describe how many turns other processes disturbed, each of which was repeated."""
    count = sum(one.is_disturbed for one in measured)
    return f" **{count} of {len(measured)} turns were disturbed by other processes.**" if count else ""


def _about(machine: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    pinned = "pinned" if machine["pinned"] else "not pinned"
    return (
        f"`python -m bench{options['arguments']}` on {machine['date']}, commit {machine['commit'] or 'unknown'}. "
        f"{machine['cpu']}, {machine['cores']} cores ({pinned}), {machine['system']}, Python {machine['python']}, "
        f"PostgreSQL {machine['postgresql']}; {libraries}."
    )


def _applications(names: Iterable[str]) -> str:
    return "\n".join(f"- **{name}**: {APPS[name].about}" for name in names)


def _targets(verdicts: Iterable[Verdict]) -> str:
    rows = [
        [verdict.title, verdict.what, verdict.wanted, verdict.measured, "reached" if verdict.reached else "**missed**"]
        for verdict in verdicts
    ]
    return _table(("", "what", "wanted", "measured", ""), rows)


def _control_of(app: str) -> str:
    return "control-sqlite" if APPS[app].on_sqlite else "control"


def _ratio(figures: Figures, scenario: str, app: str, base: str) -> str:
    if app == base or (base == _LIMIT and APPS[app].on_sqlite):
        return "1" if app == base else "-"
    return _shown(ratios(figures, scenario, app, base), 2)


def _shown(spread: Spread | None, digits: int, unit: str = "") -> str:
    return "-" if spread is None else spread.text(digits, unit)


def _given(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are aligned."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    padded = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    padded.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(padded)
