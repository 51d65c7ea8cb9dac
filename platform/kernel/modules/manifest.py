"""What a module says of itself, and what the kernel gives it."""

from collections.abc import Awaitable, Callable, Mapping, Set
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from kernel.database import Database
from kernel.http_client.client import HttpxRestClientPool
from kernel.modules.contracts import CallRule, Contract
from kernel.settings import ModuleSettings
from kernel.web.context import CurrentContext, request_context

Thing = TypeVar("Thing")


@dataclass
class ModuleContext:
    """What the kernel gives a running module. Nothing of it belongs to another module."""

    name: str
    # The project's folder: relative paths in settings start here.
    root: Path
    settings: ModuleSettings
    database: Database
    http: HttpxRestClientPool
    # The rule for calls that leave the process. `http` and the contracts obey it; before a call through another client,
    # say `await context.calls.before("PUT s3://images")`.
    calls: CallRule
    # What the module's own lifespan yielded: an object store, a cache. `get` gives it with its type.
    state: object = None
    # What extensions keep for this module, by its type.
    provided: dict[type, object] = field(default_factory=dict)

    def provide(self, thing: object) -> None:
        """Let `get` find this object by its type."""
        self.provided[type(thing)] = thing

    def get(self, kind: type[Thing]) -> Thing:
        """Return the module's state, its settings or what an extension provides, by its type. Raises TypeError."""
        for thing in (self.state, self.settings, self.provided.get(kind)):
            if isinstance(thing, kind):
                return thing
        raise TypeError(
            f"modules/{self.name} has no {kind.__name__}: its lifespan yielded {type(self.state).__name__}, and its "
            f"settings are {type(self.settings).__name__}"
        )


@dataclass(frozen=True, kw_only=True)
class Module:
    """A module's manifest, `module = Module(...)` in its module.py. Its name is its folder's."""

    # The team that answers for it.
    owner: str
    # The modules whose contracts it uses.
    depends_on: Set[str] = frozenset()
    # Its contracts, each with what makes an implementation from a session.
    provides: Mapping[type[Contract], Callable[[AsyncSession], Contract]] = field(default_factory=dict)
    # Its files with names of its own, each with its layer: {"imaging": "service"}. The boundary checks read it.
    helpers: Mapping[str, str] = field(default_factory=dict)
    # Opens what the module needs while it runs; what it yields is in the context's `state`.
    lifespan: Callable[[ModuleContext], AbstractAsyncContextManager[Any]] | None = None
    # What /health/ready asks of it, by component. A check returns, or raises what is wrong.
    health_checks: Mapping[str, Callable[[ModuleContext], Awaitable[None]]] = field(default_factory=dict)


def module_context(connection: HTTPConnection) -> ModuleContext:
    """Return the context of the module that serves the request. Raises RuntimeError outside the modules."""
    return request_context(connection).require_module()


def from_module(kind: type[Thing]) -> Thing:
    """A dependency: what the module's lifespan yielded, or its settings, by type: `from_module(ImageService)`.

    For the type checker it is a `kind`.
    """

    async def found(context: CurrentContext) -> Thing:
        return context.require_module().get(kind)

    dependency: Any = Depends(found)
    return cast(Thing, dependency)


async def module_state(context: CurrentContext) -> Any:
    """A dependency: what the module's lifespan yielded."""
    return context.require_module().state


async def module_settings(context: CurrentContext) -> Any:
    """A dependency: the module's settings."""
    return context.require_module().settings
