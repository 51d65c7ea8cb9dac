"""The removal drill: `make drill` deletes each extension from a copy, then starts and tests the rest.

For each extension a copy lacks its folder, its entry points, the extensions that require it and the modules that use
it; the last copy lacks all extensions. Each copy is installed in a virtual environment of its own, starts, answers a
POST and a GET, and passes the core's tests and those of the module notes, which uses no extension.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.core.lines import lines_of
from tests.drill.copies import EXTENSIONS, HERE, Copy, extensions, with_dependents

ALL = "all"
# The lines of pytest that name a failed test, or with --tb=line its place and reason.
_REASON = re.compile(r"FAILED|ERROR|E  |/\S+\.py:\d+: ")
_COUNTED = re.compile(r"(\d+) (passed|failed|errors?)\b")


@dataclass
class Result:
    """The result of the drill without one extension."""

    name: str
    removed: frozenset[str]
    starts: bool = False
    tests: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0


def drill(name: str, folder: Path, *, core_tests: bool, quick: bool, workers: int) -> Result:
    """Make the copy without one extension, or without all, and test it."""
    began = time.monotonic()
    copy = Copy(folder / f"without-{name}", frozenset(with_dependents(extensions() if name == ALL else [name])))
    result = Result(name, copy.removed)
    copy.make()
    start(copy, result, migrates=not quick)
    if result.starts:
        tier = "not slow and not integration" if quick else "not slow"
        run_tests(copy, result, "notes", "tests/notes", "-m", tier)
        if core_tests:
            spread = ("-n", str(workers), "--maxschedchunk", "10")
            run_tests(copy, result, "core", "platform/tests/core", "-m", tier, *spread)
    result.seconds = time.monotonic() - began
    outcome = "failed" if result.failures else "passed"
    sys.stderr.write(f"without {name}: {outcome} after {result.seconds:.0f} s\n")
    return result


def start(copy: Copy, result: Result, *, migrates: bool = True) -> None:
    """Start and check the copy, and record the first failure. The start applies the migrations, too."""
    lists = (",".join(sorted(names)) for names in (copy.present, copy.removed, copy.registered))
    script = HERE / "start.py"
    commands: list[tuple[str | Path, ...]] = [
        (copy.python, script, copy.folder, copy.folder / "data", *lists),
    ]
    if migrates:
        commands.append((copy.python.with_name("kernel"), "migrate"))
    if "boundaries" in copy.present:
        commands.append((copy.python.with_name("kernel"), "owners", "--write"))
        commands.append((copy.python.with_name("kernel"), "check"))
    for command in commands:
        done = copy.run(*command)
        if done.returncode != 0:
            shown = " ".join(Path(str(word)).name for word in command[:2])
            result.failures.append(f"{shown}:\n{_tail(done.stdout, 12)}")
            return
    result.starts = True


def run_tests(copy: Copy, result: Result, name: str, *arguments: str) -> None:
    """Run tests in the copy, and record their numbers and failures."""
    done = copy.run(copy.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", *arguments)
    counts = {kind.rstrip("s"): int(count) for count, kind in _COUNTED.findall(done.stdout)}
    passed = counts.get("passed", 0)
    result.tests[name] = f"{passed} of {sum(counts.values())}"
    if done.returncode != 0 or passed == 0:
        lines = [line for line in done.stdout.splitlines() if _REASON.match(line)]
        result.failures.append(f"tests of {name}:\n" + ("\n".join(lines) or _tail(done.stdout, 20)))


def _tail(text: str, count: int) -> str:
    return "\n".join(text.strip().splitlines()[-count:])


def report(results: list[Result]) -> bool:
    """Print the table and the failures; return whether there are none."""
    row = "{:<14} {:>7} {:>7} {:>10} {:>14} {:>8}  {}\n"
    sys.stdout.write(row.format("without", "lines", "starts", "notes", "core", "seconds", "also without"))
    for one in results:
        lines = sum(lines_of(EXTENSIONS / name) for name in (one.removed if one.name == ALL else {one.name}))
        also = "" if one.name == ALL else ", ".join(sorted(one.removed - {one.name}))
        tests = (one.tests.get(name, "-") for name in ("notes", "core"))
        sys.stdout.write(
            row.format(one.name, f"{lines:,}", "yes" if one.starts else "NO", *tests, round(one.seconds), also)
        )
    for one in results:
        for failure in one.failures:
            sys.stdout.write(f"\nwithout {one.name}: {failure}\n")
    return not any(one.failures for one in results)


def main() -> None:
    """Run the drill for the extensions named, by default for each one and for all together."""
    parser = argparse.ArgumentParser(prog="make drill", description="Remove extensions, and test the rest.")
    parser.add_argument("names", nargs="*", metavar="EXTENSION", help="an extension, or all")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="leave out integration tests, and run the core's tests without all extensions only",
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the copies in this folder")
    parser.add_argument("--no-core-tests", action="store_true", help="start and test the module notes only")
    options = parser.parse_args()
    names = options.names or [*extensions(), ALL]
    cores = os.cpu_count() or 1
    # The copy with the longest tests begins first.
    order = sorted(names, key=lambda name: name != ALL)
    with (
        tempfile.TemporaryDirectory(prefix="drill-") as temporary,
        ThreadPoolExecutor(cores if options.quick else 1) as pool,
    ):
        folder = (options.keep or Path(temporary)).resolve()
        found = pool.map(
            lambda name: drill(
                name,
                folder,
                core_tests=not options.no_core_tests and (name == ALL or not options.quick),
                quick=options.quick,
                workers=cores,
            ),
            order,
        )
        results = {one.name: one for one in found}
    sys.exit(0 if report([results[name] for name in names]) else 1)


if __name__ == "__main__":
    main()
