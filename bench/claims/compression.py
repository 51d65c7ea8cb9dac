"""Claim: gzip makes a page small. The row also shows the processor time."""

from functools import partial
from pathlib import Path
from statistics import median

from bench.claims.application import create_events
from bench.claims.processes import ROOT, serving
from bench.claims.reporting import Finding, interleaved, say
from bench.growth.worker import Worker, worker

_EVENTS = 20
_WORDS = 40
_PATH = f"/api/v1/events?limit={_EVENTS}"
_CODINGS = ("identity", "gzip")
# The claim has no number. This bound is half of the bytes.
_LEAST_SAVED = 0.5


def measure_compression(folder: Path, variables: dict[str, str], *, quick: bool) -> Finding:
    """Measure bytes and processor time of a page of events with and without gzip, in process, on PostgreSQL."""
    turns, calls = (7, 40) if quick else (25, 100)
    with serving(ROOT, "/health/ready", variables, folder / "events.log") as server:
        create_events(server.port, _EVENTS, _WORDS)
    say("gzip")
    with worker(ROOT, variables, folder / "compression.log") as application:
        application.wait_until_started()
        sizes = {}
        for coding in _CODINGS:
            turn = application.call(_PATH, 20, {"accept-encoding": coding})
            if turn.status != 200:
                raise RuntimeError(f"the application answers {turn.status} on {_PATH}")
            sizes[coding] = turn.size
        figures = interleaved(turns, {coding: partial(_cpu, application, coding, calls) for coding in _CODINGS})
    plain, packed = (median(figures[coding]) for coding in _CODINGS)
    dearer = median(a / b for a, b in zip(figures["gzip"], figures["identity"], strict=True))
    saved = 1 - sizes["gzip"] / sizes["identity"]
    return Finding(
        "gzip saves most of the bytes of a page",
        f"a page of {_EVENTS} events with descriptions of {_WORDS} words, in process; aim: at least "
        f"{_LEAST_SAVED:.0%} of the bytes",
        f"{saved:.0%} saved ({sizes['identity']:,} to {sizes['gzip']:,} bytes) for {dearer - 1:+.0%} CPU "
        f"({plain * 1e6:.0f} to {packed * 1e6:.0f} µs)",
        "yes" if saved >= _LEAST_SAVED else "no",
        {
            "saved": saved,
            "bytes": sizes,
            "cpu_ratio": dearer,
            "cpu_us": {"identity": plain * 1e6, "gzip": packed * 1e6},
        },
    )


def _cpu(application: Worker, coding: str, calls: int) -> float:
    return application.call(_PATH, calls, {"accept-encoding": coding}).cpu_seconds / calls
