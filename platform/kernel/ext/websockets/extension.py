"""The extension `websockets`."""

from collections.abc import Mapping
from typing import Any

from fastapi.routing import iter_route_contexts
from starlette.routing import Route
from starlette.types import ASGIApp

from kernel.application import Application
from kernel.ext.websockets.errors import SocketErrors
from kernel.ext.websockets.middleware import WebSocketMiddleware
from kernel.extension import ApplicationBuilder, Extension
from kernel.web.middleware import RequestContextMiddleware
from kernel.web.routes import rest_of


class WebSocketRoutes:
    """Implements `kernel.extension.WebSocketServer`."""

    def serve(self, outer: RequestContextMiddleware) -> ASGIApp:
        """Return the outermost layer of a WebSocket."""
        return WebSocketMiddleware(outer)

    def answer_errors(self, app: ASGIApp, http: ASGIApp, handlers: Mapping[Any, Any]) -> ASGIApp:
        """Return a layer that answers the errors of WebSockets, and passes requests to `http`."""
        return SocketErrors(app, http, handlers)

    def are_routed(self, app: Application) -> bool:
        """Return whether a route or a mounted application of a module may answer a WebSocket."""
        modules = [module.router for module in app.kernel.modules if module.router is not None]
        return any(
            not isinstance(route.original_route, Route)
            for router in (*modules, rest_of(app, app.checked))
            for route in iter_route_contexts(router.routes)
        )


class WebSockets(Extension):
    """Serves the WebSocket routes of modules."""

    name = "websockets"
    requires = ("cors",)  # which names the origins
    packages = ("websockets",)

    def configure(self, app: ApplicationBuilder) -> None:
        app.websockets = WebSocketRoutes()
