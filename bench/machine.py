"""The machine: its cores, what a process used of them, and whether other processes disturbed it."""

import datetime as dt
import os
import platform
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

# The application has the first core for itself; databases and load generators share the second one.
APP_CORE = 0
OTHER_CORE = 1

# The allowed cores before any process is pinned.
_CORES = frozenset(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))

_SPIN_STEPS = 200_000
_LIBRARIES = (
    "fastapi",
    "starlette",
    "pydantic",
    "sqlalchemy",
    "asyncpg",
    "aiosqlite",
    "uvicorn",
    "uvloop",
    "httptools",
)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(_CORES)


def can_pin() -> bool:
    """Return whether the application can have a core for itself."""
    return hasattr(os, "sched_setaffinity") and {APP_CORE, OTHER_CORE} <= _CORES


@contextmanager
def pinned_to(core: int) -> Iterator[None]:
    """Run processes that are started in this block on `core` alone, if that is possible."""
    if not can_pin():
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pin(pid: int, core: int) -> None:
    """Move a process, its children and all their threads to `core`."""
    if not can_pin():
        return
    for member in _family(pid):
        for task in Path(f"/proc/{member}/task").iterdir():
            with suppress(ProcessLookupError):  # The thread has ended.
                os.sched_setaffinity(int(task.name), {core})


def spin() -> tuple[float, float]:
    """Do a fixed amount of work in pure Python, and return its CPU and elapsed time in milliseconds.

    Both rise if disturbed.
    """
    started, began = time.process_time(), time.perf_counter()
    value = 0
    for step in range(_SPIN_STEPS):
        value = (value * 31 + step) & 0xFFFF
    return (time.process_time() - started) * 1000, (time.perf_counter() - began) * 1000


def cpu_seconds(pid: int) -> float | None:
    """Return the CPU time of a process and its children, ended ones included; None if /proc does not show it."""
    used = 0.0
    for member in _family(pid):
        try:
            after_name = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            if member == pid:
                return None
            continue
        # User and system time, of the process and of children that have ended (man 5 proc_pid_stat, fields 14 to 17).
        used += sum(map(int, after_name[11:15])) / os.sysconf("SC_CLK_TCK")
    return used


def resident_mib(pid: int) -> float | None:
    """Return the memory of a process and its children; None if /proc does not show it."""
    held = 0.0
    for member in _family(pid):
        try:
            lines = Path(f"/proc/{member}/status").read_text().splitlines()
        except OSError:
            if member == pid:
                return None
            continue
        held += next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0)
    return held


def _family(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # The thread or process has ended.
            for child in children.read_text().split():
                yield from _family(int(child))


class Processes:
    """The CPU time of the application, the database, this process and all others, from now on.

    `pid` is the application's and `database_pid` the database's.
    """

    def __init__(self, pid: int, database_pid: int) -> None:
        self._pid = pid
        self._database_pid = database_pid
        self._before = self._now()

    def since(self) -> tuple[float | None, float | None]:
        """Return the CPU seconds of the application and of unrelated processes; None if /proc does not show them."""
        (app, ours, everything), (app_then, ours_then, everything_then) = self._now(), self._before
        if app is None or app_then is None:
            return None, None
        used = app - app_then
        if everything is None or everything_then is None:
            return used, None
        return used, everything - everything_then - used - (ours - ours_then)

    def _now(self) -> tuple[float | None, float, float | None]:
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        ours = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
        return cpu_seconds(self._pid), ours + (cpu_seconds(self._database_pid) or 0), _everything()


def _everything() -> float | None:
    """Return the CPU time of all processes of the machine and the stolen time, without interrupts."""
    try:
        user, nice, system, _, _, _, _, steal, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    except (OSError, ValueError):
        return None
    return (user + nice + system + steal) / os.sysconf("SC_CLK_TCK")


def describe(postgresql: str) -> dict[str, Any]:
    """Return the conditions on which the figures depend. No value names the machine or its user."""
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpu_model(),
        "cores": cores(),
        "pinned": can_pin(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "postgresql": postgresql,
        "libraries": {name: version(name) for name in _LIBRARIES},
    }


def _commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
