"""Find the module of a path in constant time.

FastAPI tries all routes in order. The dispatcher selects the module by the first segments of the path, and tries only
the routes of that module. The application keeps its routes as well, for OpenAPI, overrides and `url_for`.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from kernel.auth.policy import Requires, guards_of
from kernel.modules.manifest import ModuleContext
from kernel.web.context import find_context, route_path
from kernel.web.problems import ContentTooLarge
from kernel.web.routes import is_plain

# The probes of an orchestrator. They are exempt from limits: a restart because of overload makes the overload worse.
PROBES = frozenset({"/health/live", "/health/ready", "/health/startup"})


class CompiledEndpoint(Protocol):
    """The handler of a route, compiled by an extension."""

    def takes(self, scope: Scope, path_values: Mapping[str, str]) -> bool:
        """Return whether this handler can answer the request, and write the route into its scope; else FastAPI does."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


# Returns None for a route that only FastAPI can answer.
Compile = Callable[[Any], CompiledEndpoint | None]

# For these methods no policy need be checked ahead of FastAPI, because no body is read.
WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
# A path's pattern, its compiled handler, and the policies to check before the body is read.
_Route = tuple[re.Pattern[str], CompiledEndpoint | None, Sequence[Requires]]
_TOO_LARGE = "The body is too large: at most {limit:,} bytes."


class Dispatcher:
    """Sets the module of the request context, and calls the module's routes. Pure ASGI."""

    def __init__(self, app: FastAPI, mounts: "Sequence[ModuleRoutes]", rest: "ModuleRoutes") -> None:
        """Serve `mounts` below their prefixes, and all other paths by `rest`."""
        self._app = app
        self._mounts = {_segments(mount.prefix): mount for mount in mounts}
        self._rest = rest
        # Prefixes may have different lengths (/health, /api/v1/events). The longest match wins.
        self._lengths = sorted({len(segments) for segments in self._mounts}, reverse=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app.router(scope, receive, send)
            return
        path = route_path(scope)
        routes = self._find(path)
        scope["router"] = self._app.router
        if (context := find_context(scope)) is not None:
            context.module, context.max_body_bytes = routes.context, routes.max_body_bytes
        if routes.context is not None:
            bind_contextvars(module=routes.context.name)  # for the log; RequestContextMiddleware resets it
        endpoint: ASGIApp | None = None
        if scope["type"] == "http":
            receive = _limited(scope, receive, routes.max_body_bytes)
            if scope["method"] == "HEAD":
                receive, send = _head_only(receive, send)
            # Only FastAPI's own resolver applies dependency_overrides.
            if not self._app.dependency_overrides:
                endpoint, guards = routes.match(scope, path)
                if guards and scope["method"] not in WITHOUT_BODY:
                    await _run(guards, scope)
        if endpoint is not None:
            await endpoint(scope, receive, send)
        else:
            await routes.by_fastapi(scope, receive, send, path)

    def _find(self, path: str) -> "ModuleRoutes":
        segments = _segments(path)
        for length in self._lengths:
            mount = self._mounts.get(segments[:length])
            if mount is not None:
                return mount
        return self._rest


class ModuleRoutes:
    """The routes of one module, some of them compiled."""

    def __init__(
        self,
        prefix: str,
        router: APIRouter,
        compile_endpoint: Compile | None,
        context: ModuleContext | None = None,
        max_body_bytes: int = 0,
    ) -> None:
        """Serve `router`, a copy of the application's routes below `prefix`; outside the modules without `context`."""
        self.prefix = prefix
        self.context = context
        self.max_body_bytes = max_body_bytes
        self._router = router
        self._compile = compile_endpoint
        self._fastapi = AsyncExitStackMiddleware(router)

    async def by_fastapi(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        """Have FastAPI handle the request."""
        try:
            await self._fastapi(scope, receive, _redirect_relative(scope, send))
        except HTTPException as error:
            if error.status_code == 405:
                error.headers = {**(error.headers or {}), "Allow": ", ".join(sorted(self._methods(path)))}
            raise

    def match(self, scope: Scope, path: str) -> tuple[ASGIApp | None, Sequence[Requires]]:
        """Return the compiled handler, or None if FastAPI has to handle the request; and the guards of the route."""
        for pattern, endpoint, guards in self._by_method.get(scope["method"], ()):
            if (found := pattern.match(path)) is not None:
                takes = endpoint is not None and endpoint.takes(scope, found.groupdict())
                return endpoint if takes else None, guards
        return None, ()

    def _methods(self, path: str) -> set[str]:
        """Return the methods of all routes with this path. Starlette's Allow header names only those of the first."""
        found: set[str] = set()
        for route in iter_route_contexts(self._router.routes):
            pattern = getattr(route, "path_regex", None) or getattr(route.original_route, "path_regex", None)
            if pattern is not None and pattern.match(path):
                found |= set(getattr(route, "methods", None) or ())
        return found

    @cached_property
    def _by_method(self) -> dict[str, list[_Route]]:
        """Return the routes of each method in order, up to the first that only FastAPI can match.

        That is a mount or a route whose class overrides `matches`. Computed at the module's first request: at the start
        it would take seconds with hundreds of modules.
        """
        found: dict[str, list[_Route]] = {}
        routes: list[Any] = list(iter_route_contexts(self._router.routes))
        compiled = [None if self._compile is None else self._compile(route) for route in routes]
        for route, endpoint in zip(routes, compiled, strict=True) if is_plain(self._router) else ():
            kind = type(route.original_route)
            if issubclass(kind, WebSocketRoute):
                continue
            if getattr(kind, "matches", None) is not APIRoute.matches:
                break
            guards = guards_of(route)
            for method in route.methods or ():
                found.setdefault(method, []).append((route.path_regex, endpoint, guards))
        return found


def _head_only(receive: Receive, send: Send) -> tuple[Receive, Send]:
    """End the response to HEAD where GET would start to stream: an endless stream would keep the connection open."""
    is_answered = asyncio.get_running_loop().create_future()

    async def send_head(message: Message) -> None:
        if is_answered.done():
            await asyncio.sleep(0)  # let the streaming handler receive the disconnect
            return
        if message.get("more_body"):
            message = {"type": "http.response.body", "body": b""}
            is_answered.set_result(None)
        await send(message)

    async def receive_or_end() -> Message:
        asked = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({asked, is_answered}, return_when=asyncio.FIRST_COMPLETED)
            return {"type": "http.disconnect"} if is_answered.done() else asked.result()
        finally:
            asked.cancel()

    return receive_or_end, send_head


def _redirect_relative(scope: Scope, send: Send) -> Send:
    """Make redirects for a trailing slash relative. Starlette's contain the Host header, which the caller controls."""

    async def send_relative(message: Message) -> None:
        if message.get("status") == 307 and "endpoint" not in scope:
            headers = dict(message["headers"])
            place = urlsplit(headers[b"location"])
            headers[b"location"] = b"/" + place.path.lstrip(b"/") + (b"?" + place.query if place.query else b"")
            message = {**message, "headers": list(headers.items())}
        await send(message)

    return send_relative


def _segments(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")[1:])


async def _run(guards: Sequence[Requires], scope: Scope) -> None:
    """Run the guards. If one raises, the response closes the connection rather than wait for a chunked body."""
    try:
        for guard in guards:
            await guard(HTTPConnection(scope))
    except HTTPException as error:
        error.headers = {**(error.headers or {}), **close_unread(scope)}
        raise


def close_unread(scope: Scope) -> dict[str, str]:
    """Return the header that closes the connection if the request has a body of unknown length."""
    is_chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
    return {"Connection": "close"} if is_chunked else {}


def _limited(scope: Scope, receive: Receive, limit: int) -> Receive:
    """Refuse a body over the limit: by its Content-Length at once, otherwise when more bytes have arrived."""
    chunked = False
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise ContentTooLarge(_TOO_LARGE.format(limit=limit), headers={"Connection": "close"})
        chunked = chunked or name == b"transfer-encoding"
    if not chunked:  # the server enforces the Content-Length
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
