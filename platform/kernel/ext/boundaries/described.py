"""Describe the contracts as pydantic evaluates them, in a process that imports them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kernel.ext.boundaries.imported import ImportProcessError, begin


@dataclass(frozen=True)
class Contracts:
    """The descriptions of one module's contract, or the reason why there are none."""

    # The descriptions of contracts and messages, by their names.
    described: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


def describe(root: Path, modules: Collection[str]) -> dict[str, Contracts]:
    """Import the contracts of these modules of the project in another process and describe them."""
    if not modules:
        return {}
    try:
        found: dict[str, Contracts] = begin(_describe, root, sorted(modules))()
    except ImportProcessError as error:
        return {name: Contracts(problem=str(error)) for name in modules}
    return found


def _describe(root: Path, modules: list[str]) -> dict[str, Contracts]:
    return {name: _of_module(root, name) for name in modules}


def _of_module(root: Path, name: str) -> Contracts:
    from kernel.ext.remote.wire import WireContract, description_of  # noqa: PLC0415
    from kernel.modules.discovery import DiscoveryError, contracts_of  # noqa: PLC0415  # only in this process

    described: dict[str, Any] = {}
    where = name
    try:
        for contract in contracts_of(root, name):
            where = contract.__name__
            described[where] = WireContract(contract).description
        if find_spec("kernel.ext.messaging") is not None:
            from kernel.ext.messaging.declared import messages_of  # noqa: PLC0415

            for message in messages_of(root, name):
                where = message.__name__
                described[where] = description_of(message.as_shared_model())
    except DiscoveryError as error:
        return Contracts(problem="; ".join(error.problems))
    except Exception as error:  # noqa: BLE001  # a type may fail in any way when it is described
        return Contracts(problem=f"{where} cannot be described: {type(error).__name__}: {error}")
    return Contracts(described)
