"""`python -m bench.claims`: measure whether each claim of the original architecture holds."""

import argparse
import sys
import tempfile
from pathlib import Path

from bench.claims.application import migrated
from bench.claims.clients import measure_clients
from bench.claims.compression import measure_compression
from bench.claims.connections import measure_connections
from bench.claims.databases import postgresql
from bench.claims.memory import measure_memory
from bench.claims.pools import measure_pools
from bench.claims.processes import ROOT
from bench.claims.queries import measure_queries
from bench.claims.reporting import Finding, say, table, write_json

_HEADINGS = ("claim", "what was measured", "figure", "holds?")


def main() -> None:
    """Measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.claims", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions and 1,000 connections: under a minute")
    parser.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "claims.json", help="the file")
    options = parser.parse_args()
    if sys.platform != "linux":
        parser.error("memory is read from /proc: this runs on Linux only")
    with tempfile.TemporaryDirectory(prefix="kernel-claims-") as folder:
        findings = _measure(Path(folder), quick=options.quick)
    print(table(_HEADINGS, findings))
    write_json(options.json, findings, quick=options.quick)


def _measure(folder: Path, *, quick: bool) -> list[Finding]:
    findings = [measure_connections(folder, quick=quick)]
    say("starting PostgreSQL")
    with postgresql(f"{folder.name}-postgresql", over_tcp=True) as server:
        places = {"a Unix socket": server.url}
        if server.tcp_url is not None:
            places = {"TCP on loopback, with a password": server.tcp_url} | places
        findings += measure_pools(places, quick=quick)
        findings += measure_clients(folder, quick=quick)
        variables = migrated(folder, server.create_database("application"))
        findings.append(measure_memory(folder, variables, quick=quick))
        findings += measure_queries(server.create_database("queries"), quick=quick)
        compressed = migrated(folder, server.create_database("compression"))
        findings.append(measure_compression(folder, compressed, quick=quick))
    return findings


if __name__ == "__main__":
    main()
