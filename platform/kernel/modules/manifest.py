"""The manifest of a module, and the context that the kernel gives a running module."""

from collections.abc import Awaitable, Callable, Mapping, Set
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from kernel.database import Database
from kernel.http_client import HttpxRestClientPool
from kernel.modules.contracts import CallRule, Contract
from kernel.settings import ModuleSettings
from kernel.web.context import CurrentContext, request_context

Thing = TypeVar("Thing")


@dataclass
class ModuleContext:
    """The resources of one running module."""

    name: str
    # The project's folder, to which paths in settings are relative.
    root: Path
    settings: ModuleSettings
    database: Database
    http: HttpxRestClientPool
    # The rule for calls that leave the process. `http` and the contracts apply it. Apply it yourself before a call
    # through another client: `await context.calls.before("PUT s3://images")`.
    calls: CallRule
    # The object that the module's lifespan yielded, such as an object store. `get` returns it with its type.
    state: object = None
    # Objects of extensions for this module, by type.
    provided: dict[type, object] = field(default_factory=dict)

    def provide(self, thing: object) -> None:
        """Make this object available to `get`."""
        self.provided[type(thing)] = thing

    def get(self, kind: type[Thing]) -> Thing:
        """Return the state, the settings or an object of an extension, by type. Raises TypeError if there is none."""
        for thing in (self.state, self.settings, self.provided.get(kind)):
            if isinstance(thing, kind):
                return thing
        raise TypeError(
            f"modules/{self.name} has no {kind.__name__}: its lifespan yielded {type(self.state).__name__}, and its "
            f"settings are {type(self.settings).__name__}. Check the lifespan and the settings of its module.py"
        )


@dataclass(frozen=True, kw_only=True)
class Module:
    """The manifest of a module: `module = Module(...)` in its module.py. The folder gives the name."""

    # The responsible team.
    owner: str
    # The modules whose contracts it uses.
    depends_on: Set[str] = frozenset()
    # Its contracts, each with a function that makes the implementation from a session.
    provides: Mapping[type[Contract], Callable[[AsyncSession], Contract]] = field(default_factory=dict)
    # Files with names of the module's own, each with its layer, for the boundary checks: {"imaging": "service"}.
    helpers: Mapping[str, str] = field(default_factory=dict)
    # Opens the resources of the running module. The yielded object becomes the `state` of its context.
    lifespan: Callable[[ModuleContext], AbstractAsyncContextManager[Any]] | None = None
    # Checks for /health/ready, by component. A check raises if the component is unhealthy.
    health_checks: Mapping[str, Callable[[ModuleContext], Awaitable[None]]] = field(default_factory=dict)


def module_context(connection: HTTPConnection) -> ModuleContext:
    """Return the context of the module that serves the request. Raises RuntimeError outside the modules."""
    return request_context(connection).require_module()


def from_module(kind: type[Thing]) -> Thing:
    """Return a dependency on the object that the module's lifespan yielded, or on its settings, by type.

    For the type checker, `from_module(ImageService)` is an ImageService.
    """

    async def found(context: CurrentContext) -> Thing:
        return context.require_module().get(kind)

    dependency: Any = Depends(found)
    return cast(Thing, dependency)
