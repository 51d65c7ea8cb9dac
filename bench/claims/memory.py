"""Claim: a process that has served many requests uses no more memory than one that has just started."""

import json
from collections import Counter
from pathlib import Path

from bench.claims.application import create_events
from bench.claims.crowd import Plan, crowd, request
from bench.claims.processes import ROOT, peak_rss_mib, rss_mib, serving
from bench.claims.reporting import Finding, say

# The change of a few arenas of the allocator. A leak of one small object per request would be 8 MiB.
_FLAT_MIB = 3.0
_CONNECTIONS = 8
_EVENTS = 50
# Reads, lists, writes and errors, because each runs other code that may keep objects.
_MIX = (
    request("/api/v1/events/1"),
    request("/api/v1/events/2"),
    request("/api/v1/events?limit=5"),
    request("/api/v1/events/3", "PATCH", json.dumps({"title": "Opera"})),
    request("/api/v1/events?q=concert&limit=5"),
    request("/api/v1/events/999999999"),
    request("/api/v1/events", "POST", json.dumps({"title": ""})),
    request("/nowhere"),
    request("/health/ready"),
)

_EXPECTED = {200, 404, 422}


def measure_memory(folder: Path, variables: dict[str, str], *, quick: bool) -> Finding:
    """Measure the memory of one worker of this application at its start and after each stage of a mix of requests."""
    stages, each = (5, 1_000) if quick else (5, 20_000)
    with serving(ROOT, "/health/ready", variables, folder / "memory.log") as server:
        at_start = rss_mib(server.pid)
        create_events(server.port, _EVENTS, 40)
        after: list[float] = []
        statuses: Counter[int] = Counter()
        for stage in range(stages):
            say(f"memory: requests {stage * each:,} to {(stage + 1) * each:,}")
            statuses.update(crowd(Plan(server.port, _CONNECTIONS, _MIX, per_connection=each // _CONNECTIONS)).statuses)
            after.append(rss_mib(server.pid))
        peak = peak_rss_mib(server.pid)
    if not statuses.keys() >= _EXPECTED:
        raise RuntimeError(f"the mix is not what it was meant to be: it got {dict(statuses)}")
    failures = sum(count for status, count in statuses.items() if status == 0 or status >= 500)
    growth = after[-1] - after[0]
    rows = ", ".join(f"{(number + 1) * each:,}: {mib:.1f}" for number, mib in enumerate(after))
    return Finding(
        "memory stays flat",
        f"RSS in MiB of one worker of this application (production settings) after a mix of reads, lists, writes and "
        f"errors on {_CONNECTIONS} connections; flat: at most {_FLAT_MIB:g} MiB from {each:,} to {stages * each:,}",
        f"at start {at_start:.1f}; after {rows}; growth {growth:+.1f} MiB; peak {peak:.1f}"
        + (f"; {failures:,} requests failed" if failures else ""),
        "no" if failures or growth > _FLAT_MIB else "yes",
        {
            "at_start_mib": at_start,
            "after_mib": after,
            "each": each,
            "growth_mib": growth,
            "peak_mib": peak,
            "statuses": dict(statuses),
        },
    )
