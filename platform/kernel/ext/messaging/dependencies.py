"""Resolve the dependencies of a function that is called without a request, for instance a message handler.

FastAPI reads the signatures, so that `Depends` and `Annotated` mean the same as in a router.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_dependant
from fastapi.exceptions import FastAPIError

from kernel.errors import ProjectError

_FROM_REQUEST = ("request", "websocket", "http_connection", "response", "background_tasks", "security_scopes")


class DependencyError(ProjectError):
    """A dependency that cannot be resolved without a request. The message says which and why."""


@dataclass(frozen=True)
class Dependency:
    """A function whose result is an argument, with the dependencies that are its own arguments."""

    function: Callable[..., Any]
    parameters: Mapping[str, "Dependency"]


def dependencies_of(
    function: Callable[..., Any], owner: str, own: Collection[str], given: Collection[Callable[..., Any]]
) -> dict[str, Dependency]:
    """Return the dependencies of a function, by parameter. Raises DependencyError.

    `own` are parameters that the caller passes itself. `given` are dependencies whose values it passes to `resolve`.
    """
    try:
        found = get_dependant(path="/", call=function)
    except FastAPIError as error:
        raise DependencyError(f"{owner}: {error}") from None
    return dict(_parameters(found, owner, own, given))


async def resolve(dependencies: Mapping[str, Dependency], values: dict[Callable[..., Any], Any]) -> dict[str, Any]:
    """Return the arguments for these dependencies. Each function is called once.

    `values` are results by function, including those of the given dependencies.
    """
    return {name: await _value(dependency, values) for name, dependency in dependencies.items()}


async def _value(dependency: Dependency, values: dict[Callable[..., Any], Any]) -> Any:
    function = dependency.function
    if function not in values:
        value = function(**await resolve(dependency.parameters, values))
        values[function] = await value if inspect.isawaitable(value) else value
    return values[function]


def _parameters(
    dependant: Dependant, owner: str, own: Collection[str], given: Collection[Callable[..., Any]]
) -> Mapping[str, Dependency]:
    fields = (
        *dependant.path_params,
        *dependant.query_params,
        *dependant.header_params,
        *dependant.cookie_params,
        *dependant.body_params,
    )
    names = (getattr(dependant, f"{kind}_param_name") for kind in _FROM_REQUEST)
    for name in (*(field.name for field in fields), *filter(None, names)):
        if name not in own:
            raise DependencyError(
                f"{owner}: {name} is read from a request, but this function runs without one. Annotate it as another "
                "dependency: `Annotated[EventRepository, with_session(EventRepository)]`, a contract with `use`, or "
                "the state of the module with `from_module`"
            )
    return {
        one.name: _dependency(one, f"{owner}: {one.name}", given)
        for one in dependant.dependencies
        if one.name is not None
    }


def _dependency(dependant: Dependant, owner: str, given: Collection[Callable[..., Any]]) -> Dependency:
    function = dependant.call
    assert function is not None  # noqa: S101  # FastAPI's own types leave it open
    if function in given:
        return Dependency(function, {})
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise DependencyError(f"{owner} has a dependency with `yield`, which needs a request: use return")
    return Dependency(function, _parameters(dependant, owner, (), given))
