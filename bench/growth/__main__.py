"""`python -m bench.growth`: measure how the start and the routing grow with the number of modules."""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.claims.databases import postgresql
from bench.claims.processes import KERNEL, ROOT, environment
from bench.claims.reporting import Finding, say, table, write_json
from bench.growth.imports import dear_and_idle
from bench.growth.project import last_path, write_project
from bench.growth.routing import measure_routing
from bench.growth.starts import application_start, help_start, measure_starts

_FEW = 3
_ROUTES = 10
# Each feature once, so that the imports of its first answer count as needed.
_PATHS = ("/health/live", "/health", "/health/incidents", "/api/v1/events", "/api/v1/events/1", "/api/v1/images", "/no")
_HEADINGS = ("what", "aim", "measured", "holds?")


def main() -> None:
    """Measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: half a minute instead of two")
    parser.add_argument("--modules", type=int, default=200, help="how many modules the large project has")
    parser.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "growth.json", help="the file")
    options = parser.parse_args()
    if sys.platform != "linux":
        parser.error("memory is read from /proc: this runs on Linux only")
    if options.modules <= _FEW:
        parser.error(f"--modules must be more than {_FEW}, which it is compared with")
    with tempfile.TemporaryDirectory(prefix="kernel-growth-") as folder:
        findings = _measure(Path(folder), options.modules, quick=options.quick)
    print(table(_HEADINGS, findings))
    write_json(options.json, findings, quick=options.quick)


def _measure(folder: Path, many: int, *, quick: bool) -> list[Finding]:
    projects = {modules: write_project(folder / f"project-{modules}", modules, _ROUTES) for modules in (_FEW, many)}
    without_tables = write_project(folder / "without-tables", many, _ROUTES, tables=0)
    say(f"wrote projects of {_FEW} and {many} modules with {_ROUTES} routes each; starting PostgreSQL")
    with postgresql(f"{folder.name}-postgresql") as server:
        # As in a deployment, each start verifies on PostgreSQL that all migrations are applied.
        variables = environment(
            folder,
            ENVIRONMENT="dev",
            APPLICATION_DEBUG="false",
            AUTH_ENABLED="false",
            DATABASE_URL=server.create_database("growth").render_as_string(hide_password=False),
            IMAGES_STORAGE_URL=str(folder / "images"),
        )
        migrating = _migrate(projects[many], f"{many} modules", variables)
        _migrate(ROOT, "this repository's application", variables)
        routing = measure_routing(projects, _ROUTES, variables, folder, quick=quick)
        path, log = last_path(many, _ROUTES), folder / "start.log"
        large = application_start(
            f"{many} modules with a table each: from the start to the first answer over HTTP",
            projects[many], path, variables, log, most_seconds=4,
        )  # fmt: skip
        without = application_start(f"{many} modules without tables", without_tables, path, variables, log)
        ours = application_start(
            "this repository's application: from the start to the first answer over HTTP",
            ROOT, "/health/live", variables, log, most_seconds=1.3, most_mib=95,
        )  # fmt: skip
        helped = help_start(variables, most_seconds=0.3)
        if quick:
            started = measure_starts([large], 1) + measure_starts([ours, helped], 3)
        else:
            started = measure_starts([large, without, ours, helped], 7, warm_up=True)
        say("imports that are dear and do nothing")
        imports = dear_and_idle(ROOT, _PATHS, variables)
    return [*routing, *started, _migrated_finding(many, migrating), _imports_finding(imports)]


def _migrated_finding(modules: int, seconds: float) -> Finding:
    about = f"`kernel migrate` of {modules} modules from nothing"
    return Finding(about, "for information", f"{seconds:.1f} s", "for information", {"seconds": seconds})


def _imports_finding(imports: list[tuple[str, float]]) -> Finding:
    return Finding(
        "imports of this application's start in which then nothing runs, the dearest 12",
        "for information",
        ", ".join(f"{name} {milliseconds:.0f} ms" for name, milliseconds in imports),
        "for information",
        {"milliseconds": dict(imports)},
    )


def _migrate(project: Path, name: str, variables: dict[str, str]) -> float:
    """Migrate, and return the seconds."""
    say(f"migrating {name}")
    started_at = time.perf_counter()
    done = subprocess.run([KERNEL, "migrate"], cwd=project, env=variables, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"`kernel migrate` failed for {name}:\n{done.stderr}")
    return time.perf_counter() - started_at


if __name__ == "__main__":
    main()
