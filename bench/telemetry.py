"""`python -m bench.telemetry`: measure the processor time that metrics and traces add to a read of one row."""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import uvloop

from bench.claims.application import migrated
from bench.claims.databases import postgresql
from bench.claims.processes import ROOT, answering, environment, free_port
from bench.claims.reporting import interleaved, markdown, say
from bench.scenarios import Recipe
from bench.worker import Caller, Prepared
from kernel.application import Application
from kernel.ext.telemetry.tracing import Tracing
from kernel.serving import application
from kernel.testing import project_for

# A collector that uses no processor time of this process, and shows which requests it got.
_COLLECTOR = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Collector).serve_forever()
"""
_BASE = "neither"
# The requests of a turn. Their spans, two of each, fill a batch of the exporter.
_READS = 256
_EVENT = {"title": "Concert", "date": "2030-05-01", "time": "19:30"}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.telemetry", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the turns")
    turns = 10 if parser.parse_args().quick else 100
    shown = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # The application's log, which is part of the cost of a request.
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="kernel-telemetry-") as name:
        folder, port = Path(name), free_port()
        say("starting PostgreSQL and a collector")
        command, log = [sys.executable, "-c", _COLLECTOR, str(port)], folder / "collector.log"
        with (
            postgresql(f"{folder.name}-postgresql") as server,
            answering(command, folder, port, "/", environment(folder), log),
        ):
            figures = _measure(migrated(folder, server.create_database("telemetry")), port, turns)
            if "POST /v1/traces" not in log.read_text():
                raise RuntimeError("no span has reached the collector")
    shown.write(_table(figures) + "\n")


def _measure(variables: dict[str, str], port: int, turns: int) -> dict[str, list[float]]:
    """Return, for each variant and turn, the microseconds of processor time per request."""
    variables = variables | {"MESSAGING_RELAY": "false", "TELEMETRY_METRICS": "false"}
    to_collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    some = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
    apps = {
        _BASE: _application(variables),
        "metrics": _application(variables | {"TELEMETRY_METRICS": "true"}),
        "traces of all requests": _application(variables, to_collector),
        "traces of one in ten": _application(variables, to_collector | some),
    }
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        callers = {name: Caller(app) for name, app in apps.items()}
        for caller in callers.values():
            runner.run(caller.start())
        runner.run(_create(callers[_BASE]))
        contestants = {name: partial(_turn, runner, caller, apps[name]) for name, caller in callers.items()}
        say("warming up")
        interleaved(2, contestants)
        say(f"{turns} turns of each")
        figures = interleaved(turns, contestants)
        for caller in callers.values():
            runner.run(caller.stop())
    return figures


def _application(variables: Mapping[str, str], otel: Mapping[str, str] | None = None) -> Application:
    """Return the application as in production. OpenTelemetry reads its variables from the environment at this point."""
    os.environ.update(otel or {})
    try:
        return application(project_for(ROOT, variables))
    finally:
        for name in otel or {}:
            del os.environ[name]


def _turn(runner: asyncio.Runner, caller: Caller, app: Application) -> float:
    return runner.run(_cost(caller, app, _READS))


async def _cost(caller: Caller, app: Application, reads: int) -> float:
    """Return the processor time, including the export of all spans to the collector."""
    request = Prepared(Recipe("GET", "/api/v1/events/1"), 0)
    provider: Any = None if app.kernel.get(Tracing) is None else app.kernel.get(Tracing).of_requests["tracer_provider"]
    began_at = time.process_time()
    for _ in range(reads):
        [start, *_] = await caller.ask(request)
    if provider is not None:
        provider.force_flush()
    used = time.process_time() - began_at
    if start["status"] != 200:
        raise RuntimeError(f"the event was not read: {start['status']}")
    return used / reads * 1e6


async def _create(caller: Caller) -> None:
    recipe = Recipe("POST", "/api/v1/events", headers={"content-type": "application/json"}, body=json.dumps(_EVENT))
    [start, *rest] = await caller.ask(Prepared(recipe, 0))
    if start["status"] != 201:
        raise RuntimeError(f"the event was not created: {start['status']} {rest}")


def _table(figures: Mapping[str, list[float]]) -> str:
    """Print the quietest turns (the 5th percentile), because other load on the machine only adds to a turn."""
    quietest = {name: quantiles(found, n=20)[0] for name, found in figures.items()}
    base = quietest[_BASE]
    rows = [
        (name, f"{found:.1f}", f"{found - base:+.1f}", f"{median(figures[name]):.1f}")
        for name, found in quietest.items()
    ]
    return markdown(("with", "µs of CPU a read", "more than with neither", "median of all turns"), rows)


if __name__ == "__main__":
    main()
