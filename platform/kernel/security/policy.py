"""Who may ask a route: said in its signature, and refused where nothing is said."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple, TypeVar

from fastapi import APIRouter, Depends
from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import HTTPBearer
from fastapi.routing import iter_route_contexts
from fastapi.security.base import SecurityBase
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from kernel.security.principal import Principal, principal_of
from kernel.security.tokens import unauthorized
from kernel.web.problems import Forbidden
from kernel.web.session import Session

NO_POLICY = (
    'does not say who may ask it. Give it or its router dependencies=[requires("...")], or [public] if everybody may.'
)


class Requires(SecurityBase):
    """A dependency: who asks, if they have all these scopes. Raises Unauthorized and Forbidden."""

    def __init__(self, *scopes: str) -> None:
        self.scopes = scopes
        # What OpenAPI says of it.
        self.model = HTTPBearer(bearerFormat="JWT")
        self.scheme_name = "bearer"

    async def __call__(self, connection: HTTPConnection) -> Principal:
        """Asked by FastAPI."""
        principal = await principal_of(connection)
        if principal is None:
            raise unauthorized(None, "Say who you are: Authorization: Bearer TOKEN.")
        if not principal.may(*self.scopes):
            wanted = " ".join(self.scopes)
            challenge = f'Bearer realm="api", error="insufficient_scope", scope="{wanted}"'
            raise Forbidden(f"This needs the scope {wanted}.", headers={"WWW-Authenticate": challenge})
        return principal

    # FastAPI asks equal dependencies of a request once.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Requires) and other.scopes == self.scopes

    def __hash__(self) -> int:
        return hash(self.scopes)


def requires(*scopes: str) -> Any:
    """A policy: only who has all these scopes may ask; without any, only who says who they are.

    `caller: Annotated[Principal, requires("events:write")]` where the handler wants to know who it is, else
    `dependencies=[requires("events:read")]` of a route or a whole router.
    """
    return Depends(Requires(*scopes))


Made = TypeVar("Made")


def for_caller(make: Callable[[AsyncSession, Principal], Made], *scopes: str) -> Any:
    """A policy, and what is made from the session and the caller: `for_caller(EventRepository, "events:read")`.

    So a repository knows for whom it looks, and no route can forget to tell it.
    """
    guard = Requires(*scopes)

    async def made(session: Session, caller: Annotated[Principal, Depends(guard)]) -> Made:
        return make(session, caller)

    return Depends(made)


async def anybody() -> None:
    """Says that this route is meant for everybody."""


public: Any = Depends(anybody)
"""A policy: everybody may ask. `dependencies=[public]`."""


class Unguarded(NamedTuple):
    """A route that says nothing of who may ask it, and where its handler is."""

    route: str
    file: str | None
    line: int


def unguarded(router: APIRouter) -> Iterator[Unguarded]:
    """The routes that do not say who may ask them.

    What is no route of FastAPI's (a mount, a plain Starlette route) cannot say it, and so is among them.
    """
    for context in iter_route_contexts(router.routes):
        route: Any = context.original_route
        dependant = getattr(context, "dependant", None) or getattr(route, "dependant", None)
        if dependant is None or not _has_policy(dependant):
            words = (*sorted(getattr(context, "methods", None) or ()), getattr(context, "path", ""))
            code = getattr(getattr(route, "endpoint", None), "__code__", None)
            file, line = (code.co_filename, code.co_firstlineno) if code is not None else (None, 0)
            yield Unguarded(" ".join(words), file, line)


def _has_policy(dependant: Dependant) -> bool:
    return any(
        isinstance(one.call, Requires) or one.call is anybody or _has_policy(one) for one in dependant.dependencies
    )
