"""`make faults`: run the scenarios on fresh databases, print one table, fail if a bound is broken."""

import argparse
import asyncio
import importlib
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kernel.testing import create_database, postgresql_server
from tests.faults.harness import Result

# Each module lists its scenarios: ON_BOTH databases, ON_POSTGRESQL, or ONCE if the database does not matter.
_FILES = (
    "messages",
    "subscribers",
    "databases",
    "commits",
    "aborted",
    "upstreams",
    "disks",
    "uploads",
    "bombs",
    "slow",
    "much",
    "stops",
    "load",
    "starts",
)
_COLUMNS = ("Scenario", "Database", "Tried", "Occurred", "Result", "Bound", "Holds")
_BEGIN, _END = "<!-- make faults -->", "<!-- end -->"


def main() -> int:
    """Run the scenarios. Return 0 if every bound holds and every fault occurred."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="run a few cases of each scenario")
    parser.add_argument("--only", default="", help="part of a file's or a scenario's name")
    parser.add_argument("--on", choices=["sqlite", "postgresql"], help="only this database")
    parser.add_argument("--write", type=Path, help="also put the table between the marks of this file")
    chosen = parser.parse_args()
    results: list[Result] = []
    began_at = time.monotonic()
    with tempfile.TemporaryDirectory() as name, postgresql_server(Path(name) / "postgresql") as server:
        for place, (title, scenario, kind) in enumerate(_scenarios()):
            if chosen.only not in title or chosen.on not in {None, kind}:
                continue
            folder = Path(name) / f"scenario{place}"
            folder.mkdir()
            if kind == "sqlite":
                url = f"sqlite:///{folder / 'data'}"
            else:
                url = create_database(server, f"faults{place}").render_as_string(hide_password=False)
            print(f"{title} on {kind} ...", end=" ", flush=True)
            started_at = time.monotonic()
            found = _run(title, scenario, folder, url, is_quick=chosen.quick)
            results += found
            print("; ".join(one.result for one in found), f"({time.monotonic() - started_at:.0f} s)", flush=True)
    table = Table(*_COLUMNS)
    for one in results:
        table.add_row(*_cells(one))
    Console(width=None if sys.stdout.isatty() else 240).print(table)
    minutes = (time.monotonic() - began_at) / 60
    print(f"{len(results)} results in {minutes:.0f} minutes; {sum(not one.holds for one in results)} do not hold.")
    if chosen.write is not None:
        _write(chosen.write, results, minutes)
    return 0 if results and all(one.holds for one in results) else 1


def _scenarios() -> Iterator[tuple[str, Any, str]]:
    for name in filter(_exists, _FILES):
        module = importlib.import_module(f"tests.faults.{name}")
        for tuple_name, kinds in (
            ("ON_BOTH", ("postgresql", "sqlite")),
            ("ON_POSTGRESQL", ("postgresql",)),
            ("ONCE", ("sqlite",)),
        ):
            for scenario in getattr(module, tuple_name, ()):
                for kind in kinds:
                    yield f"{name}.{scenario.__name__}", scenario, kind


def _exists(name: str) -> bool:
    """Return whether the scenarios are there: those of the example modules may be removed (bin/without-examples)."""
    return (Path(__file__).parent / f"{name}.py").exists()


def _run(title: str, scenario: Any, folder: Path, url: str, *, is_quick: bool) -> list[Result]:
    """Run a scenario. An exception becomes a line that does not hold, and the other scenarios still run."""
    try:
        found: list[Result] = asyncio.run(scenario(folder, url, is_quick))
    except Exception as error:  # noqa: BLE001  # Any error of a scenario.
        traceback.print_exc()
        return [Result(title, "", "", "", f"{type(error).__name__}: {error}"[:200], "to run", holds=False)]
    return found


def _cells(one: Result) -> tuple[str, ...]:
    return (one.scenario, one.database, one.tried, one.bit, one.result, one.bound, "yes" if one.holds else "NO")


def _write(path: Path, results: list[Result], minutes: float) -> None:
    rows = [" | ".join(cell.replace("|", "\\|") for cell in _cells(one)) for one in results]
    lines = [" | ".join(_COLUMNS), "|".join("---" for _ in _COLUMNS), *rows]
    table = "\n".join(f"| {line} |" for line in lines)
    said = f"`make faults` on {datetime.now(UTC):%Y-%m-%d}, {minutes:.0f} minutes:\n\n{table}"
    marked = re.compile(f"{_BEGIN}.*{_END}", re.DOTALL)
    path.write_text(marked.sub(lambda _: f"{_BEGIN}\n\n{said}\n\n{_END}", path.read_text()))


if __name__ == "__main__":
    sys.exit(main())
