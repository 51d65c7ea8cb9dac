"""Access policies: each route declares which callers it serves, and a route without a policy is refused."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple, TypeVar, cast

from fastapi import APIRouter, Depends
from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from kernel.auth.principal import Principal, principal_of, unauthorized
from kernel.web.context import Session
from kernel.web.problems import Forbidden
from kernel.web.routes import methods_of, paths_of, routes_of

NO_POLICY = (
    'has no access policy. Give the route or its router dependencies=[requires("...")], or [public] for all callers.'
)


class Requires(SecurityBase):
    """A dependency that returns the caller if they have all these scopes. Raises Unauthorized and Forbidden."""

    def __init__(self, *scopes: str) -> None:
        self.scopes = scopes
        # For OpenAPI.
        self.model = HTTPBearer(bearerFormat="JWT")
        self.scheme_name = "bearer"

    async def __call__(self, connection: HTTPConnection) -> Principal:
        """Return the caller. FastAPI calls this."""
        principal = await principal_of(connection)
        if principal is None:
            raise unauthorized(None, "This needs authentication. Send a header: Authorization: Bearer TOKEN.")
        if not principal.may(*self.scopes):
            wanted = " ".join(self.scopes)
            challenge = f'Bearer realm="api", error="insufficient_scope", scope="{wanted}"'
            raise Forbidden(f"This needs the scope {wanted}.", headers={"WWW-Authenticate": challenge})
        return principal

    # FastAPI calls equal dependencies of a request only once.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Requires) and other.scopes == self.scopes

    def __hash__(self) -> int:
        return hash(self.scopes)


def requires(*scopes: str) -> Any:
    """Return a policy: callers need all these scopes, or, if none are given, authentication only.

    `caller: Annotated[Principal, requires("events:write")]` if the handler uses the caller, otherwise
    `dependencies=[requires("events:read")]` of a route or a whole router.
    """
    return Depends(Requires(*scopes))


Made = TypeVar("Made")


def for_caller(make: Callable[[AsyncSession, Principal], Made], *scopes: str) -> Made:
    """Return a policy that makes a repository for the caller: `for_caller(EventRepository, "events:read")`.

    The repository restricts its rows to the caller, and no route can forget to pass the caller.
    """
    guard = Requires(*scopes)

    async def made(caller: Annotated[Principal, Depends(guard)], session: Session) -> Made:
        return make(session, caller)

    dependency: Any = Depends(made)
    return cast(Made, dependency)


async def allow_all() -> None:
    """Allow every caller."""


public: Any = Depends(allow_all)
"""A policy: every caller is allowed. `dependencies=[public]`."""


class Policy(NamedTuple):
    """A route and its access policy."""

    methods: tuple[str, ...]
    # Relative to its router.
    path: str
    # The scopes that a caller needs; None if the route is public or has no policy.
    scopes: tuple[str, ...] | None
    is_declared: bool
    # The place of its handler.
    file: str | None
    line: int

    @property
    def route(self) -> str:
        """The methods and the path, for messages."""
        return " ".join((*self.methods, self.path))


def policies(router: APIRouter) -> Iterator[Policy]:
    """Yield the policies of all routes of a router and of the routers in it, whatever their kind.

    Only FastAPI's own routes (including WebSockets and the folders of `frontend()`) have dependencies and so can have
    a policy. A mount, a host and a plain Starlette route cannot.
    """
    for context in routes_of(router):
        route: Any = context.original_route
        declared = [one for one in calls_of(dependant_of(context)) if isinstance(one, Requires) or one is allow_all]
        scopes = [scope for one in declared if isinstance(one, Requires) for scope in one.scopes]
        needs_caller = any(isinstance(one, Requires) for one in declared)
        code = getattr(getattr(route, "endpoint", None), "__code__", None)
        file, line = (code.co_filename, code.co_firstlineno) if code is not None else (None, 0)
        for path in paths_of(context):
            yield Policy(
                methods=methods_of(context),
                path=path,
                scopes=tuple(dict.fromkeys(scopes)) if needs_caller else None,
                is_declared=bool(declared),
                file=file,
                line=line,
            )


def unguarded(router: APIRouter) -> Iterator[Policy]:
    """Yield the routes without a policy."""
    return (one for one in policies(router) if not one.is_declared)


def name_of(route: Any) -> str:
    """Return the methods and the path of a route, for messages."""
    return " ".join((*methods_of(route), *paths_of(route)))


def guards_of(route: Any) -> tuple[Requires, ...]:
    """Return the policies that a route requires, each once, to check them before FastAPI reads the body."""
    return tuple(dict.fromkeys(one for one in calls_of(dependant_of(route)) if isinstance(one, Requires)))


def dependant_of(context: Any) -> Dependant | None:
    """Return the dependencies of an included route, or None if it is not a route of FastAPI."""
    return getattr(context, "dependant", None) or getattr(context.original_route, "dependant", None)


def calls_of(dependant: Dependant | None) -> Iterator[object]:
    """Yield the functions of all direct and indirect dependencies."""
    for one in dependant.dependencies if dependant is not None else ():
        yield one.call
        yield from calls_of(one)
