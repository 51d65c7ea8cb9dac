"""Contracts: what one module lets the others ask of it.

A contract is a class of asynchronous methods whose arguments and results are plain values. The module that owns it
implements it; another asks through `use(...)` and never learns where the answer comes from.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from kernel.database import Database

Method = TypeVar("Method", bound=Callable[..., Any])


class Contract:
    """Base of every contract. Raises TypeError at definition for a method that could not cross a network."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if Contract not in cls.__bases__:
            return  # an implementation may have whatever helpers it likes
        for name, method in _methods(cls).items():
            if not inspect.iscoroutinefunction(method):
                raise TypeError(f"{cls.__name__}.{name} must be `async def`: a contract may be answered from elsewhere")
            signature = inspect.signature(method)
            annotations = [parameter.annotation for parameter in list(signature.parameters.values())[1:]]
            if inspect.Signature.empty in (*annotations, signature.return_annotation):
                raise TypeError(f"{cls.__name__}.{name} must have every argument and its result annotated")


class ContractUnavailable(Exception):
    """Nobody who provides the contract can be reached."""


def safe(method: Method) -> Method:
    """Mark a contract's method as one that changes nothing: it gets a read session and may be asked twice."""
    method.__kernel_safe__ = True  # type: ignore[attr-defined]  # a mark on the function, read by local_port
    return method


def use(contract: type[Contract]) -> Any:
    """A dependency on another module's contract: `ImagesPort = Annotated[Images, use(Images)]`."""

    async def port(connection: HTTPConnection) -> Contract:
        ports: Mapping[type[Contract], Contract] = connection.app.state.ports
        if contract not in ports:
            owner = contract.__module__.rpartition(".")[0]
            raise ContractUnavailable(
                f"No enabled module provides {contract.__name__}: add {owner} to ENABLED_MODULES."
            )
        return ports[contract]

    return Depends(port)


def local_port(
    contract: type[Contract], database: Database, implementation: Callable[[AsyncSession], Contract]
) -> Contract:
    """The contract, answered in this process: each call in a unit of work of the owning module."""
    calls = {name: _local_call(name, method, database, implementation) for name, method in _methods(contract).items()}
    port: Contract = type(f"Local{contract.__name__}", (contract,), calls)()
    return port


def _local_call(
    name: str,
    method: Callable[..., Any],
    database: Database,
    implementation: Callable[[AsyncSession], Contract],
) -> Callable[..., Any]:
    opened = database.read if getattr(method, "__kernel_safe__", False) else database.transaction

    async def call(_self: Contract, *args: Any, **kwargs: Any) -> Any:
        async with opened() as session:
            return await getattr(implementation(session), name)(*args, **kwargs)

    call.__name__ = name
    return call


def _methods(contract: type[Contract]) -> dict[str, Callable[..., Any]]:
    members = inspect.getmembers(contract, inspect.isfunction)
    return {name: method for name, method in members if not name.startswith("_")}
