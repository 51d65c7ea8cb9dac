"""`python -m bench.boundaries`: time `kernel check` on this repository and on 200 modules of ten files and more."""

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

from bench.claims.processes import KERNEL, ROOT
from bench.claims.reporting import say
from kernel.ext.boundaries.self_test import copied
from kernel.ext.boundaries.violations.base import files_of

# Seconds.
_AIM_HERE = 2
_AIM_LARGE = 10


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.boundaries", description=__doc__)
    parser.add_argument("--modules", type=int, default=200, help="the number of modules of the large project")
    parser.add_argument("--quick", action="store_true", help="measure once instead of three times")
    options = parser.parse_args()
    times = 1 if options.quick else 3
    with tempfile.TemporaryDirectory(prefix="kernel-boundaries-") as folder:
        say(f"writing a project of {options.modules} modules")
        large = write_large(Path(folder) / "large", options.modules)
        count = sum(1 for top in ("modules", "migrations", "tests") for _ in (large / top).rglob("*.py"))
        print("| `kernel check`, the whole command | aim | best of", times, "|\n|---|---|---|")
        print(f"| this repository | {_AIM_HERE} s | {timed(ROOT, times):.1f} s |")
        print(f"| {options.modules} modules, {count:,} files | {_AIM_LARGE} s | {timed(large, times):.1f} s |")


def write_large(folder: Path, modules: int) -> Path:
    """Write a project without findings in which each module uses the one before it."""
    (folder / "modules").mkdir(parents=True)
    (folder / "modules" / "__init__.py").write_text('"""The modules."""\n')
    for path in ("importlinter.ini", "pyproject.toml"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to(ROOT / path)
    for number in range(modules):
        before = f"m{number - 1:03d}" if number else None
        for path, text in files_of(f"m{number:03d}", before).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    return copied(folder, folder.with_name("checked"))


def timed(project: Path, times: int) -> float:
    """Return the seconds of the fastest run, each in a new process. Raises CalledProcessError for a finding."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run(
            [KERNEL, "check"],
            cwd=project,
            env=os.environ | {"PYTHONPATH": str(project)},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    main()
