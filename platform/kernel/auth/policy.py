"""Who may ask a route: said in its signature, and refused where nothing is said."""

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple, TypeVar, cast

from fastapi import APIRouter, Depends
from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from kernel.auth.bearer import unauthorized
from kernel.auth.principal import Principal, principal_of
from kernel.web.problems import Forbidden
from kernel.web.routes import methods_of, paths_of, routes_of
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


def for_caller(make: Callable[[AsyncSession, Principal], Made], *scopes: str) -> Made:
    """A policy, and what is made from the session and the caller: `for_caller(EventRepository, "events:read")`.

    So a repository knows for whom it looks, and no route can forget to tell it.
    """
    guard = Requires(*scopes)

    async def made(caller: Annotated[Principal, Depends(guard)], session: Session) -> Made:
        return make(session, caller)

    dependency: Any = Depends(made)
    return cast(Made, dependency)


async def anybody() -> None:
    """Says that this route is meant for everybody."""


public: Any = Depends(anybody)
"""A policy: everybody may ask. `dependencies=[public]`."""


class Policy(NamedTuple):
    """A route, and what it says of who may ask it."""

    methods: tuple[str, ...]
    # Below its router.
    path: str
    # All of which who asks must have; None where anybody may, or where nothing is said.
    scopes: tuple[str, ...] | None
    is_said: bool
    # Where its handler is.
    file: str | None
    line: int

    @property
    def route(self) -> str:
        """What a person calls it."""
        return " ".join((*self.methods, self.path))


def policies(router: APIRouter) -> Iterator[Policy]:
    """Yield the policies of all routes of a router and of the routers in it, whatever their kind.

    Only a route of FastAPI's own (also a WebSocket, also a folder of `frontend()`) has dependencies, and so a policy.
    A mount, a host and a plain Starlette route have none.
    """
    for context in routes_of(router):
        route: Any = context.original_route
        said = [one for one in calls_of(dependant_of(context)) if isinstance(one, Requires) or one is anybody]
        scopes = [scope for one in said if isinstance(one, Requires) for scope in one.scopes]
        needs_caller = any(isinstance(one, Requires) for one in said)
        code = getattr(getattr(route, "endpoint", None), "__code__", None)
        file, line = (code.co_filename, code.co_firstlineno) if code is not None else (None, 0)
        for path in paths_of(context):
            yield Policy(
                methods=methods_of(context),
                path=path,
                scopes=tuple(dict.fromkeys(scopes)) if needs_caller else None,
                is_said=bool(said),
                file=file,
                line=line,
            )


def unguarded(router: APIRouter) -> Iterator[Policy]:
    """The routes that do not say who may ask them."""
    return (one for one in policies(router) if not one.is_said)


def name_of(route: Any) -> str:
    """What a person calls a route of a router: its methods, and its path."""
    return " ".join((*methods_of(route), *paths_of(route)))


def guards_of(route: Any) -> tuple[Requires, ...]:
    """What a route requires, each once: may be asked before FastAPI asks it."""
    return tuple(dict.fromkeys(one for one in calls_of(dependant_of(route)) if isinstance(one, Requires)))


def document_scopes(schema: dict[str, Any], prefix: str, router: APIRouter) -> None:
    """Say in an OpenAPI document which scopes each operation needs; FastAPI itself does for OAuth2's schemes only."""
    for one in policies(router):
        operations = schema["paths"].get(prefix + re.sub(r":\w+}", "}", one.path), {})
        for method in one.methods if one.scopes is not None else ():
            if method.lower() in operations:
                operations[method.lower()]["security"] = [{"bearer": list(one.scopes or ())}]


def dependant_of(context: Any) -> Dependant | None:
    """What a route needs, after inclusion; None for what is no route of FastAPI's."""
    return getattr(context, "dependant", None) or getattr(context.original_route, "dependant", None)


def calls_of(dependant: Dependant | None) -> Iterator[object]:
    """All that is called before a handler, directly or for another."""
    for one in dependant.dependencies if dependant is not None else ():
        yield one.call
        yield from calls_of(one)
