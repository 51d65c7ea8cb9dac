"""List all routes of a router, and make the copy of them that an application serves.

FastAPI keeps included routers as a tree, and the routes of `router.frontend()` outside of it. Only private names of
FastAPI reach those; `tests/security/test_routes.py` fails when they change.
"""

import copy
from collections.abc import Collection, Iterator

from fastapi import APIRouter, FastAPI
from fastapi.routing import (
    APIRoute,
    RouteContext,
    _EffectiveRouteContext,
    _FrontendRouteGroup,
    _IncludedRouter,
    iter_route_contexts,
)
from starlette.routing import BaseRoute, Host, Mount, Route, WebSocketRoute

# The kinds of routes, with their subclasses, that FastAPI can include.
_KNOWN = (Route, WebSocketRoute, Mount, Host, _FrontendRouteGroup, _IncludedRouter)
# A router class that overrides one of these changes how its routes are matched or handled.
_DECIDES = ("app", "handle", "matches", "__call__")


def routes_of(router: APIRouter) -> Iterator[RouteContext]:
    """Yield every route of a router and of the routers in it, those of `frontend()` last, as FastAPI tries them."""
    yield from iter_route_contexts(router.routes)
    for one in router._iter_low_priority_routes():
        yield RouteContext(one.original_route, one) if isinstance(one, _EffectiveRouteContext) else RouteContext(one)


def paths_of(route: RouteContext) -> tuple[str, ...]:
    """Return the paths of a route: one, or those of all folders for the routes of `frontend()`; a host for a Host."""
    original = route.original_route
    if isinstance(original, _FrontendRouteGroup):
        prefix = getattr(route, "frontend_prefix", "")
        return tuple((prefix + one.path).rstrip("/") or "/" for one in original.routes)
    return (str(route.path or getattr(original, "path", None) or getattr(original, "host", "")),)


def methods_of(route: RouteContext) -> tuple[str, ...]:
    """Return the methods of a route in order; none for a WebSocket, a Mount and a Host."""
    methods = {"GET", "HEAD"} if isinstance(route.original_route, _FrontendRouteGroup) else route.methods
    return tuple(sorted(methods or ()))


def unknown_kinds(router: APIRouter) -> Iterator[str]:
    """Yield an error for each route of a kind that FastAPI does not include but silently leaves out."""
    for route in (*router.routes, *router._low_priority_routes):
        if isinstance(route, _IncludedRouter):
            yield from unknown_kinds(route.original_router)
        elif not isinstance(route, _KNOWN):
            name = f"{type(route).__module__}.{type(route).__qualname__}"
            yield (
                f"a route is a {name}, which FastAPI does not include in an application. "
                "Use a route of FastAPI's, or mount an ASGI application."
            )


def unserved_websockets(router: APIRouter) -> Iterator[str]:
    """Yield an error for each WebSocket route; for an application in which no extension serves WebSockets."""
    for route in routes_of(router):
        if isinstance(route.original_route, WebSocketRoute):
            yield (
                f"{paths_of(route)[0]} is a WebSocket route, and the extension that serves WebSockets is not in use: "
                "install `websockets`, or remove the route."
            )


def router_for(app: FastAPI, router: APIRouter, prefix: str) -> APIRouter:
    """Return a router that serves a module's routes below a prefix, as they are now: see `served_copy`."""
    outer = _outer(app)
    outer.include_router(served_copy(router), prefix=prefix)
    return outer


def rest_of(app: FastAPI, without: Collection[BaseRoute]) -> APIRouter:
    """Return a router that serves an application's other routes, as they are now: see `served_copy`."""
    served = served_copy(app.router)
    outer = _outer(app)
    pairs = zip(app.router.routes, served.routes, strict=True)
    outer.routes = [copied for route, copied in pairs if not any(route is one for one in without)]
    outer._low_priority_routes = served._low_priority_routes
    return outer


def _outer(app: FastAPI) -> APIRouter:
    return APIRouter(redirect_slashes=app.router.redirect_slashes, dependency_overrides_provider=app)


def served_copy(router: APIRouter) -> APIRouter:
    """Return a copy of a router and of the routers in it, in which each GET route answers HEAD, too.

    The application serves the copy. Routes that are added later are not served, because their policies were not
    checked. The documentation shows the original, in which HEAD does not double every operation.
    """
    served = copy.copy(router)
    answer_head = {
        route.path for route in router.routes if isinstance(route, APIRoute) and "HEAD" in (route.methods or ())
    }
    served.routes = [_served(route, answer_head) for route in router.routes]
    served._low_priority_routes = [copy.copy(route) for route in router._low_priority_routes]
    for group in served._low_priority_routes:
        if isinstance(group, _FrontendRouteGroup):
            group.routes = list(group.routes)
    return served


def _served(route: BaseRoute, answer_head: set[str]) -> BaseRoute:
    if isinstance(route, _IncludedRouter):
        return _IncludedRouter(served_copy(route.original_router), route.include_context)
    methods = route.methods or set() if isinstance(route, APIRoute) else set()
    if isinstance(route, APIRoute) and "GET" in methods and route.path not in answer_head:
        route = copy.copy(route)
        route.methods = {*methods, "HEAD"}
    return route


def is_plain(router: APIRouter) -> bool:
    """Return whether the router and the routers in it match and handle requests like FastAPI's own class."""
    kind = type(router)
    return all(getattr(kind, name, None) is getattr(APIRouter, name, None) for name in _DECIDES) and all(
        is_plain(route.original_router) for route in router.routes if isinstance(route, _IncludedRouter)
    )
