"""Descriptions of the contracts as pydantic evaluates them, from a process that imports them.

The process ends after each description, so that the contracts of two projects, or of one project before and after a
change, never meet in one interpreter.
"""

import multiprocessing
import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_LONGEST_SECONDS = 60.0
_STARTS = multiprocessing.get_all_start_methods()
# A server that has imported the kernel forks for each description; elsewhere every description imports it anew.
_PROCESSES: Any = multiprocessing.get_context("forkserver" if "forkserver" in _STARTS else "spawn")
_PROCESSES.set_forkserver_preload(["__main__", "kernel.discovery", "kernel.remote.wire", "walls.described"])


@dataclass(frozen=True)
class Contracts:
    """What a module's contract says, or why that is not known."""

    # The descriptions of contracts and messages, by their names.
    described: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


def describe(root: Path, modules: Collection[str]) -> dict[str, Contracts]:
    """Import the contracts of these modules of the project in another process and describe them."""
    if not modules:
        return {}
    answer, there = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_describe, args=(str(root), sorted(modules), there), daemon=True)
    process.start()
    there.close()
    problem = f"importing the contracts took longer than {_LONGEST_SECONDS:g} s"
    try:
        if answer.poll(_LONGEST_SECONDS):
            found: dict[str, Contracts] = answer.recv()
            return found
    except EOFError:
        process.join(_LONGEST_SECONDS)
        problem = f"importing the contracts ended the process with exit code {process.exitcode}"
    finally:
        process.kill()
        process.join()
        answer.close()
    return {name: Contracts(problem=problem) for name in modules}


def _describe(root: str, modules: list[str], answer: Connection) -> None:
    os.dup2(2, 1)  # what a contract prints is no part of a report
    sys.path[:0] = [root, str(Path(root, "platform"))]
    answer.send({name: _of_module(Path(root), name) for name in modules})


def _of_module(root: Path, name: str) -> Contracts:
    from kernel.discovery import DiscoveryError, contracts_of, messages_of  # noqa: PLC0415  # only in this process
    from kernel.remote.wire import WireContract, WireMessage  # noqa: PLC0415

    described: dict[str, Any] = {}
    wires: list[WireContract | WireMessage] = []
    try:
        wires = [*map(WireContract, contracts_of(root, name)), *map(WireMessage, messages_of(root, name))]
        for wire in wires:
            described[wire.name] = wire.description
    except DiscoveryError as error:
        return Contracts(problem="; ".join(error.problems))
    except Exception as error:  # noqa: BLE001  # a type may fail in any way when it is described
        where = wires[len(described)].name
        return Contracts(problem=f"{where} cannot be described: {type(error).__name__}: {error}")
    return Contracts(described)
