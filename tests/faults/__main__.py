"""`make faults`: run the scenarios on fresh databases, print one table, fail if a bound is broken."""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kernel.testing import create_database, postgresql_server
from tests.faults import messages
from tests.faults.harness import Result


def main() -> int:
    """0 if every bound holds and every fault really happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few of each: whether it works, not how well")
    parser.add_argument("--only", default="", help="part of a scenario's name")
    parser.add_argument("--on", choices=["sqlite", "postgresql"], help="only this database")
    chosen = parser.parse_args()
    scenarios = [(one, kind) for one in messages.ON_BOTH for kind in ("postgresql", "sqlite")]
    scenarios += [(one, "postgresql") for one in messages.ON_POSTGRESQL]
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name, postgresql_server(Path(name) / "postgresql") as server:
        folder = Path(name)
        for place, (scenario, kind) in enumerate(scenarios):
            if chosen.only not in scenario.__name__ or chosen.on not in {None, kind}:
                continue
            started_at = time.monotonic()
            if kind == "sqlite":
                url = f"sqlite:///{folder / f'data{place}'}"
            else:
                url = create_database(server, f"faults{place}").render_as_string(hide_password=False)
            print(f"{scenario.__name__} on {kind} ...", end=" ", flush=True)
            found = asyncio.run(scenario(folder, url, chosen.quick))
            results += found
            print("; ".join(one.result for one in found), f"({time.monotonic() - started_at:.0f} s)", flush=True)
    table = Table("Scenario", "Database", "Tried", "It bit", "Result", "Bound", "Holds")
    for one in results:
        mark = "yes" if one.holds else "NO"
        table.add_row(one.scenario, one.database, one.tried, one.bit, one.result, one.bound, mark)
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    return 0 if results and all(one.holds for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
