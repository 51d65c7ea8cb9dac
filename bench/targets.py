"""The targets of this project: wanted ratios, compared with the measured ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.statements import Statements

# A transaction of one statement: BEGIN and COMMIT around it.
_TRANSACTION = 2


@dataclass(frozen=True)
class Target:
    """The target of one scenario. CPU and requests per second are in relation to `base`."""

    scenario: str
    title: str
    app: str
    base: str
    statements: int
    in_transaction: bool = False
    most_cpu: float | None = None
    most_cpu_us_more: float | None = None
    least_rate: float | None = None


TARGETS = (
    Target("read_one", "read one", "ours", "control", 1, most_cpu=0.30, least_rate=3.5),
    Target("list", "list 20 with total", "ours", "control", 1, most_cpu=0.40, least_rate=2.0),
    Target("create", "create", "ours", "control", 1, True, most_cpu=0.55, least_rate=1.8),
    Target("patch", "patch with If-Match", "ours", "control", 1, True, most_cpu=0.60, least_rate=1.7),
    Target("health", "does nothing", "ours", "bare", 0, most_cpu_us_more=40, least_rate=0.6),
    Target("read_one", "read one on SQLite", "ours-sqlite", "control-sqlite", 1, most_cpu=0.60),
)


@dataclass(frozen=True)
class Verdict:
    """One line of the table of targets. `reached` is None if nothing was measured."""

    title: str
    what: str
    wanted: str
    measured: str
    reached: bool | None


@dataclass(frozen=True)
class Spread:
    """The smallest, the median and the largest of some figures."""

    least: float
    middle: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """Return the spread of these figures, or None if there are none."""
        if not values:
            return None
        ordered = sorted(values)
        half = len(ordered) // 2
        middle = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
        return cls(ordered[0], middle, ordered[-1])

    def text(self, digits: int = 2, unit: str = "") -> str:
        """Return `median (smallest to largest)`."""
        if self.least == self.greatest:
            return f"{self.middle:.{digits}f}{unit}"
        return f"{self.middle:.{digits}f}{unit} ({self.least:.{digits}f} to {self.greatest:.{digits}f})"


Figures = Mapping[tuple[str, str], Sequence[float | None]]
"""By scenario and application, one figure a round; None where a round gave none."""


def ratios(figures: Figures, scenario: str, app: str, base: str) -> Spread | None:
    """Return the ratios of `app` to `base` for each round, because a disturbance of a round affects both."""
    pairs = zip(figures.get((scenario, app), ()), figures.get((scenario, base), ()), strict=False)
    return Spread.of([mine / theirs for mine, theirs in pairs if mine is not None and theirs])


def judge(
    cpu: Figures,
    rates: Figures,
    statements: Mapping[str, Mapping[str, Statements]],
    targets: Sequence[Target] = TARGETS,
) -> list[Verdict]:
    """Compare each target with the median of the measurements."""
    return [verdict for target in targets for verdict in _judge_one(target, cpu, rates, statements)]


def _judge_one(
    target: Target, cpu: Figures, rates: Figures, statements: Mapping[str, Mapping[str, Statements]]
) -> list[Verdict]:
    verdicts = []
    key = (target.scenario, target.app, target.base)
    if target.most_cpu is not None:
        found = ratios(cpu, *key)
        reached = None if found is None else found.middle <= target.most_cpu
        verdicts.append(_verdict(target, f"CPU / {target.base}", f"≤ {target.most_cpu:.2f}", found, reached))
    if target.most_cpu_us_more is not None:
        pairs = zip(cpu.get(key[:2], ()), cpu.get((target.scenario, target.base), ()), strict=False)
        more = Spread.of([mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None])
        reached = None if more is None else more.middle <= target.most_cpu_us_more
        shown = "-" if more is None else more.text(0, " µs")
        wanted = f"≤ {target.most_cpu_us_more:.0f} µs"
        verdicts.append(Verdict(target.title, f"CPU above {target.base}", wanted, shown, reached))
    if target.least_rate is not None:
        found = ratios(rates, *key)
        reached = None if found is None else found.middle >= target.least_rate
        verdicts.append(_verdict(target, f"requests/s / {target.base}", f"≥ {target.least_rate:.1f}", found, reached))
    sent = statements.get(target.scenario, {}).get(target.app)
    wanted = f"{target.statements}{' in a transaction' if target.in_transaction else ''}"
    reached = None if sent is None else _is_within(sent, target)
    verdicts.append(Verdict(target.title, "statements", wanted, "-" if sent is None else str(sent), reached))
    return verdicts


def _verdict(target: Target, what: str, wanted: str, found: Spread | None, reached: bool | None) -> Verdict:
    return Verdict(target.title, what, wanted, "-" if found is None else found.text(), reached)


def _is_within(sent: Statements, target: Target) -> bool:
    transaction = _TRANSACTION if target.in_transaction else 0
    return sent.data <= target.statements and sent.transaction <= transaction and sent.pings == 0
