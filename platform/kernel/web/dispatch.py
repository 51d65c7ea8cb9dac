"""From a path to its module in constant time, however many modules there are.

FastAPI tries one route after the other. Here the path's first segments find the module, and only its own routes are
tried. The routes stay where FastAPI put them, so that OpenAPI, overrides and `url_for` work as ever.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI
from starlette._utils import get_route_path
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernel.web.problems import ContentTooLarge

_TOO_LARGE = "The body is too large: at most {limit:,} bytes."


@dataclass(frozen=True)
class Site:
    """Where a module is served, what its handlers reach through the request, and how large a body may be."""

    prefix: str
    route: BaseRoute
    context: object
    max_body_bytes: int


class Dispatcher:
    """Pure ASGI. Sets `scope["kernel.module"]` to the context of the module that is asked."""

    def __init__(self, app: FastAPI, sites: Mapping[str, Site], max_body_bytes: int) -> None:
        self._router = app.router
        self._sites = {
            _segments(site.prefix): (_view(app, [site.route]), site.context, site.max_body_bytes)
            for site in sites.values()
        }
        modules = {id(site.route) for site in sites.values()}
        own = [route for route in app.router.routes if id(route) not in modules]
        self._rest = (_view(app, own), None, max_body_bytes)
        # Prefixes of several lengths are possible (/health, /api/v1/events): the longest that matches wins.
        self._lengths = sorted({len(segments) for segments in self._sites}, reverse=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._router(scope, receive, send)
            return
        app, context, limit = self._find(get_route_path(scope))
        scope["router"] = self._router
        scope["kernel.module"] = context
        if scope["type"] == "http":
            receive = _limited(scope, receive, limit)
        await app(scope, receive, send)

    def _find(self, path: str) -> tuple[ASGIApp, object, int]:
        segments = _segments(path)
        for length in self._lengths:
            site = self._sites.get(segments[:length])
            if site is not None:
                return site
        return self._rest


def _segments(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")[1:])


def _view(app: FastAPI, routes: list[BaseRoute]) -> APIRouter:
    router = APIRouter(redirect_slashes=app.router.redirect_slashes, dependency_overrides_provider=app)
    router.routes = routes
    return router


def _limited(scope: Scope, receive: Receive, limit: int) -> Receive:
    """Refuse a body that is too large: by its declared length at once, else when it has grown over the limit."""
    chunked = False
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise ContentTooLarge(_TOO_LARGE.format(limit=limit), headers={"Connection": "close"})
        chunked = chunked or name == b"transfer-encoding"
    if not chunked:  # the server itself holds a body to its declared length
        return receive
    size = 0

    async def receive_limited() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise ContentTooLarge(_TOO_LARGE.format(limit=limit), headers={"Connection": "close"})
        return message

    return receive_limited
