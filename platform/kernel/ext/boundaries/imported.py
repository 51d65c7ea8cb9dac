"""Collect the facts that only an import shows, in separate processes.

Each process ends after its answer, so that two projects, or one project before and after a change, never meet in one
interpreter. Code that a module runs on import cannot disturb the checks.
"""

import importlib
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from kernel.extension import GROUP

# The sections of `collect`. If there are none, "problem" states why.
Facts = Mapping[str, Any]

_LONGEST_SECONDS = 120.0
_STARTS = multiprocessing.get_all_start_methods()
# With "forkserver", a server imports the kernel once and forks. With "spawn", each process imports the kernel.
_PROCESSES: Any = multiprocessing.get_context("forkserver" if "forkserver" in _STARTS else "spawn")
_PROCESSES.set_forkserver_preload(
    [
        "__main__",
        "kernel.modules.discovery",
        "kernel.ext.remote.wire",
        "kernel.ext.boundaries.described",
        "kernel.ext.boundaries.extended",
        "kernel.ext.boundaries.guarded",
        "kernel.ext.boundaries.metadata",
        *(point.module for point in entry_points(group=GROUP) if point.module.startswith("kernel.ext.")),
    ]
)


class ImportProcessError(Exception):
    """Raised if a process that imports the project gives no answer. The message says why."""


def begin(task: Callable[..., Any], root: Path, *arguments: object) -> Callable[[], Any]:
    """Run `task(root, *arguments)` in another process that can import the project. Call the result to get the answer.

    The call raises ImportProcessError.
    """
    answer, there = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_answer, args=(task, str(root), arguments, there), daemon=True)
    process.start()
    there.close()

    def wait() -> Any:
        try:
            if answer.poll(_LONGEST_SECONDS):
                return answer.recv()
            raise ImportProcessError(f"the import took longer than {_LONGEST_SECONDS:g} s")
        except EOFError:
            process.join(_LONGEST_SECONDS)
            reason = f"the import ended the process with exit code {process.exitcode}"
            raise ImportProcessError(reason) from None
        finally:
            process.kill()
            process.join()
            answer.close()

    return wait


def _answer(task: Callable[..., Any], root: str, arguments: tuple[object, ...], answer: Connection) -> None:
    os.dup2(2, 1)  # the output of a module must not become part of a report
    sys.path.insert(0, root)
    answer.send(task(Path(root), *arguments))


def begin_facts(root: Path) -> Callable[[], Facts]:
    """Start to collect the facts of a project. Call the result to wait for them."""
    waiting = begin(collect, root)

    def wait() -> Facts:
        try:
            facts: Facts = waiting()
        except ImportProcessError as error:
            return {"problem": str(error)}
        return facts

    return wait


def collect(root: Path) -> dict[str, Any]:
    """Import the project into this process and collect its facts."""
    from kernel.ext.boundaries import extended, guarded, metadata  # noqa: PLC0415  # slow: they import the kernel

    return {
        "extensions": extended.collect(root),
        "metadata": metadata.collect(root),
        "routes": guarded.collect(root),
    }


def import_file(root: Path, dotted: str) -> str | None:
    """Import a file of the project. Return the reason if that fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(dotted)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a module may fail in any way
        return f"{type(error).__name__}: {error}"
    file = Path(module.__file__ or "").resolve()
    return None if file.is_relative_to(root.resolve()) else f"{file} was imported under this name"
