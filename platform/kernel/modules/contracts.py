"""Contracts: the methods that a module offers to other modules.

A contract is a class of asynchronous methods whose arguments and results are plain values. The module that owns it
implements it. Other modules call it through `use(...)`, in the same process or in another one.
"""

import inspect
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, TypeVar, cast, dataclass_transform, get_type_hints

import structlog
from fastapi import Depends
from pydantic import BaseModel, create_model
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.database import Database
from kernel.database.session import open_sessions
from kernel.web.context import CurrentContext

_log = structlog.get_logger("kernel.modules.contracts")
_KERNEL, _STANDARD_LIBRARY = str(Path(__file__).parents[1]), str(Path(os.__file__).parent)

Method = TypeVar("Method", bound=Callable[..., Any])
AContract = TypeVar("AContract", bound="Contract")


class Contract:
    """Base of every contract. Defining a method that cannot be called over a network raises TypeError.

    `class Images(Contract, version=2)` declares a breaking change of version 1.
    """

    contract_version: ClassVar[int] = 1

    def __init_subclass__(cls, version: int = 1) -> None:
        super().__init_subclass__()
        if Contract not in cls.__bases__:
            return  # an implementation may have other methods as well
        if type(version) is not int or version < 1:
            raise TypeError(f"the version of {cls.__name__} must be a whole number from 1, not {version!r}")
        cls.contract_version = version
        for name, method in methods_of(cls).items():
            if not inspect.iscoroutinefunction(method):
                raise TypeError(f"{cls.__name__}.{name} must be `async def`, because another process may answer it")
            signature = inspect.signature(method)
            annotations = [parameter.annotation for parameter in list(signature.parameters.values())[1:]]
            if inspect.Signature.empty in (*annotations, signature.return_annotation):
                raise TypeError(f"{cls.__name__}.{name} must have annotations for every argument and the result")


@dataclass_transform(kw_only_default=True)
class ContractError(Exception):
    """Base of the errors that a contract declares. Defined beside the contract, they reach its callers unchanged.

    Fields are annotations: `class TooMany(ContractError): limit: int`, then `raise TooMany(limit=3)`. Wrong values
    raise pydantic's ValidationError.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if taken := inspect.get_annotations(cls).keys() & {*dir(Exception), "fields", "form"}:
            raise TypeError(f"{cls.__name__} cannot have a field {min(taken)}: every error has such an attribute")

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        self.fields = self.form()(**fields)
        vars(self).update(self.fields)

    def __str__(self) -> str:
        what = (type(self).__doc__ or type(self).__name__).partition("\n")[0].rstrip(".")
        said = ", ".join(f"{name}={value!r}" for name, value in self.fields)
        return f"{what} ({said})" if said else what

    @classmethod
    @cache
    def form(cls) -> type[BaseModel]:
        """Return the fields as a model."""
        hints = get_type_hints(cls, include_extras=True)
        fields: dict[str, Any] = {name: (hint, getattr(cls, name, ...)) for name, hint in hints.items()}
        return create_model(cls.__name__, **fields)


class ContractUnavailable(Exception):
    """The contract cannot be called: its provider is down, late or busy, or (ContractBroken) violates it."""


class ContractBroken(ContractUnavailable):
    """The provider is missing, or answered with an error or another type. A retry does not help."""


class CallInTransaction(Exception):
    """A call would leave the process inside a transaction that has written. The message says where and what to do."""


class CallRule:
    """The rule for contract calls, outgoing HTTP calls and other calls that may leave the process.

    Written rows would stay locked while another process answers, and a rollback here would not undo changes there. A
    session that has only read releases its connection: otherwise slow remote systems would exhaust the pool for
    requests that need only the database.
    """

    def __init__(self, *, is_strict: bool) -> None:
        self._is_strict = is_strict
        self._warned: set[tuple[str, str]] = set()

    async def before(self, call: str) -> None:
        """Apply the rule to every open session. Raises CallInTransaction if strict, otherwise warns once per place."""
        for session in open_sessions():
            if (written := session.pending_writes()) is None:
                await session.release_connection()
            else:
                self._complain(call, _caller(), written)

    def _complain(self, call: str, place: str, written: str) -> None:
        message = (
            f"{call} is called at {place}, inside a transaction that has written ({written}). The call may leave this "
            "process: make it before the first write, publish a message instead, or use after_commit."
        )
        if self._is_strict:
            raise CallInTransaction(message)
        if (call, place) not in self._warned:
            self._warned.add((call, place))
            _log.warning("called inside a transaction", call=call, place=place, advice=message)


def safe(method: Method) -> Method:
    """Mark a contract's method as one that changes nothing: it gets a read session and may be retried."""
    method.__kernel_safe__ = True  # type: ignore[attr-defined]  # a mark on the function, read by local_client
    return method


def use(contract: type[AContract]) -> AContract:
    """Return a dependency on another module's contract: `ImagesClient = Annotated[Images, use(Images)]`.

    For the type checker it has the type of the contract, so that `images: Images = use(Other)` is an error.
    """

    async def client(context: CurrentContext) -> Contract:
        clients = context.kernel.contracts
        if contract not in clients:
            owner = contract.__module__.rpartition(".")[0]
            raise ContractBroken(f"No enabled module provides {contract.__name__}: add {owner} to ENABLED_MODULES.")
        return clients[contract]

    dependency: Any = Depends(client)
    return cast(AContract, dependency)


def local_client(
    contract: type[Contract], database: Database, implementation: Callable[[AsyncSession], Contract], rule: CallRule
) -> Contract:
    """Return a client of a contract in this process. Each call runs in a session of the owning module."""

    def calling(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        opened = database.read if getattr(method, "__kernel_safe__", False) else database.transaction

        async def call(_self: Contract, *args: Any, **kwargs: Any) -> Any:
            await rule.before(f"{contract.__name__}.{name}")
            async with opened() as session:
                return await getattr(implementation(session), name)(*args, **kwargs)

        return call

    calls = {name: calling(name, method) for name, method in methods_of(contract).items()}
    client: Contract = type(f"Local{contract.__name__}", (contract,), calls)()
    return client


def home_of(contract: type[Contract]) -> str:
    """Return the Python module that defines a contract and its errors, modules.<name>.contract, a file or a package."""
    return ".".join(contract.__module__.split(".")[:3])


def is_declared(error: type[Exception], contract: type[Contract]) -> bool:
    """Return whether the contract declares this error."""
    return issubclass(error, ContractError) and f"{error.__module__}.".startswith(f"{home_of(contract)}.")


def methods_of(contract: type[Contract]) -> dict[str, Callable[..., Any]]:
    """Return the methods of a contract by name."""
    members = inspect.getmembers(contract, inspect.isfunction)
    return {name: method for name, method in members if not name.startswith("_")}


def _caller() -> str:
    """Return file and line of the innermost frame in a module, or else of the innermost frame outside libraries."""
    nearest = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file, line, frame = Path(frame.f_code.co_filename), frame.f_lineno, frame.f_back
        if "site-packages" in file.parts or str(file).startswith((_KERNEL, _STANDARD_LIBRARY, "<")):
            continue
        if "modules" in file.parts:
            start = len(file.parts) - 1 - file.parts[::-1].index("modules")
            return f"{'/'.join(file.parts[start:])}:{line}"
        nearest = nearest or f"{file}:{line}"
    return nearest or "a task of its own"
