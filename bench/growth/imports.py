"""Find slow imports of the start whose code does not run afterwards: candidates for a later import."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from bench.claims.processes import ROOT

_LINE = re.compile(r"import time:\s*(\d+) \|\s*\d+ \|\s*(\S+)")
# The imports of this measurement itself, and those of every Python program.
_NOT_OF_THE_START = frozenset({"bench", "encodings", "site", "uvloop"})


def self_times(trace: str) -> dict[str, int]:
    """Return the microseconds of each module's own code, from the output of `python -X importtime`."""
    return {name: int(own) for own, name in _LINE.findall(trace)}


def idle_groups(times: Mapping[str, int], busy: Collection[str]) -> list[tuple[str, int]]:
    """Return packages of which no module is in `busy`, each with its microseconds, the slowest first.

    If a part of a package is busy, its subpackages (the first two names) are examined instead.
    """
    working = {part for module in busy for part in (module.split(".")[0], _two_names(module))}
    total: dict[str, int] = defaultdict(int)
    for module, own in times.items():
        package = module.split(".")[0]
        total[_two_names(module) if package in working else package] += own
    return sorted(((group, own) for group, own in total.items() if group not in working), key=lambda one: -one[1])


def _two_names(module: str) -> str:
    return ".".join(module.split(".")[:2])


def dear_and_idle(
    project: Path, paths: Sequence[str], variables: Mapping[str, str], most: int = 12
) -> list[tuple[str, float]]:
    """Return the slowest imports of the application's start of which no code ran, neither then nor for GETs of `paths`.

    In milliseconds. The use of classes and constants does not count as running, nor does code in C, so a name in the
    result is only a candidate.
    """
    command = [sys.executable, "-X", "importtime", "-m", __name__, str(project), *paths]
    done = subprocess.run(command, cwd=ROOT, env=dict(variables), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the application does not start with its imports timed:\n{done.stderr[-2000:]}")
    busy = json.loads(done.stdout.splitlines()[-1])
    found = [one for one in idle_groups(self_times(done.stderr), busy) if one[0].split(".")[0] not in _NOT_OF_THE_START]
    return [(group, own / 1000) for group, own in found[:most]]


def main(project: str, *paths: str) -> None:
    """Start the application, send some requests, and print which modules ran a function after their import."""
    os.chdir(project)
    sys.path.insert(0, project)
    from bench.growth.worker import call  # noqa: PLC0415
    from kernel.serving import application  # noqa: PLC0415

    app = application()
    ran: set[str] = set()

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            ran.add(frame.f_globals.get("__name__", ""))

    async def run() -> None:
        async with app.router.lifespan_context(app):
            for path in paths:
                await call(app, path, {})

    sys.setprofile(note)
    asyncio.run(run())
    sys.setprofile(None)
    print(json.dumps(sorted(ran)))


if __name__ == "__main__":
    main(*sys.argv[1:])
