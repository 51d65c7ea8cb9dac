"""Measure the time from the start of a process to its first answer, and its memory."""

import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.claims.processes import KERNEL, ROOT, peak_rss_mib, serving
from bench.claims.reporting import Finding, say, verdict


@dataclass(frozen=True)
class Start:
    """A process to start several times."""

    about: str
    # The limits of seconds and MiB; None: for information.
    most_seconds: float | None
    most_mib: float | None
    # Starts it once, and returns the seconds until its answer and its peak memory in MiB.
    once: Callable[[], tuple[float, float]]


def application_start(
    about: str,
    project: Path,
    path: str,
    variables: Mapping[str, str],
    log: Path,
    *,
    most_seconds: float | None = None,
    most_mib: float | None = None,
) -> Start:
    """Start `kernel serve` in `project` and wait until it has answered `path` over HTTP."""

    def once() -> tuple[float, float]:
        with serving(project, path, variables, log) as server:
            return server.start_seconds, peak_rss_mib(server.pid)

    return Start(about, most_seconds, most_mib, once)


def help_start(variables: Mapping[str, str], most_seconds: float) -> Start:
    """Run `kernel --help`."""

    def once() -> tuple[float, float]:
        started_at = time.perf_counter()
        subprocess.run([KERNEL, "--help"], cwd=ROOT, env=dict(variables), check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started_at, 0.0

    return Start("`kernel --help`", most_seconds, None, once)


def measure_starts(starts: list[Start], rounds: int, *, warm_up: bool = False) -> list[Finding]:
    """Return the medians of several rounds that start each once; `warm_up` adds a first round that does not count."""
    figures: dict[str, list[tuple[float, float]]] = {start.about: [] for start in starts}
    for number in range(0 if warm_up else 1, rounds + 1):
        say(f"starts: round {number} of {rounds}" if number else "starts: a round to warm up")
        for start in starts:
            figure = start.once()
            if number:
                figures[start.about].append(figure)
    return [_finding(start, figures[start.about]) for start in starts]


def _finding(start: Start, figures: list[tuple[float, float]]) -> Finding:
    seconds, peak = (median(column) for column in zip(*figures, strict=True))
    aims, fulfilled = [], []
    if start.most_seconds is not None:
        aims.append(f"under {start.most_seconds:g} s")
        fulfilled.append(seconds < start.most_seconds)
    if start.most_mib is not None:
        aims.append(f"at most {start.most_mib:g} MiB")
        fulfilled.append(peak <= start.most_mib)
    shown = f"{seconds:.2f} s" + (f", peak {peak:.0f} MiB" if peak else "")
    spread = f" ({len(figures)} starts: {min(figures)[0]:.2f} to {max(figures)[0]:.2f} s)" if figures[1:] else ""
    return Finding(
        start.about,
        ", ".join(aims) or "for comparison",
        shown + spread,
        verdict(*fulfilled) if fulfilled else "for information",
        {"seconds": seconds, "peak_mib": peak or None, "all_seconds": [one for one, _ in figures]},
    )
