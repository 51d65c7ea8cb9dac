"""The ASGI application: the kernel's layers around the modules' routes, and the factory that assembles them."""

import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernel.auth.policy import NO_POLICY, unguarded
from kernel.database import DatabaseUnavailable
from kernel.errors import ProjectError
from kernel.extension import Extension
from kernel.modules.contracts import Contract
from kernel.modules.discovery import DiscoveredModule, DiscoveryError
from kernel.project import load_project
from kernel.runtime import Kernel
from kernel.settings import Settings
from kernel.web.dispatch import Dispatcher, ModuleRoutes
from kernel.web.middleware import AccessLog, RequestContextMiddleware, log_request
from kernel.web.problems import HANDLERS
from kernel.web.routes import rest_of, router_for, unknown_kinds, unserved_websockets

_log = structlog.get_logger("kernel.application")

# FastAPI would send spans and metrics wherever another library has configured OpenTelemetry to.
_NO_TELEMETRY = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
RouteRule = Callable[[APIRouter], Iterator[str]]


class Application(FastAPI):
    """FastAPI with the kernel's layers around its routes, and no others."""

    kernel: Kernel
    # A server replaces it by that of an extension: `ApplicationBuilder.access_log`.
    access_log: AccessLog
    # Those of modules, and those that extensions mount.
    mounts: list[ModuleRoutes]
    # The application's own routes for OpenAPI and `url_for`, in place of which `mounts` are served.
    dispatched: list[BaseRoute]
    # Routes whose policies create_app has checked, and the kernel's own, each of which decides itself who may ask.
    checked: list[BaseRoute]
    # True if FastAPI's own telemetry is in use. FastAPI would determine this at every request.
    is_traced: bool

    def build_middleware_stack(self) -> ASGIApp:
        """From the inside out. FastAPI's own stack would put the catch-all outside CORS and add three layers."""
        self.refuse_unchecked()  # again: what is added after the start is not served either
        rest = ModuleRoutes("", rest_of(self, self.dispatched), self.kernel.builder.compile_endpoint)
        app: ASGIApp = Dispatcher(self, self.mounts, rest)
        for make in reversed(self.kernel.builder.middleware):
            app = make(app)
        http: ASGIApp = ExceptionMiddleware(app, self.exception_handlers, debug=False)
        sockets = self.kernel.builder.websockets
        app = http if sockets is None else sockets.answer_errors(app, http, self.exception_handlers)
        for layer, args, options in reversed(self.user_middleware):
            app = layer(app, *args, **options)
        for make in reversed(self.kernel.builder.outer_middleware):
            app = make(app)
        return RequestContextMiddleware(self.kernel, app, self.access_log)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, completed by the extensions."""
        if self.openapi_schema is None:
            self.openapi_schema = super().openapi()
            for complete in self.kernel.builder.openapi_steps:
                complete(self.openapi_schema)
        return self.openapi_schema

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            send = _without_traceback(send, self)
        if self.is_traced or scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
        else:
            await Starlette.__call__(self, scope, receive, send)

    def refuse_unchecked(self) -> None:
        """Raise DiscoveryError for a route without a policy that was added to the application itself."""
        added = rest_of(self, self.checked)
        if faults := [fault for rule in _route_rules(self.kernel) for fault in rule(added)]:
            raise DiscoveryError(f"outside the modules: {one}" for one in faults)


def create_app(
    settings: Settings | None = None,
    modules: tuple[DiscoveredModule, ...] | None = None,
    extensions: tuple[type[Extension], ...] | None = None,
    *,
    contracts: Mapping[type[Contract], Contract] | None = None,
    when_started: Callable[[], None] | None = None,
) -> Application:
    """Assemble an application; nothing is opened before its lifespan, at whose start `when_started` is called last.

    `contracts` implement the contracts of modules that do not run here. To serve it with uvicorn alone:
    `uvicorn --factory kernel.application:create_app`. Raises SettingsError, DiscoveryError and ExtensionError.
    """
    kernel = Kernel(*(load_project() if settings is None else (settings, modules, extensions)), contracts=contracts)
    application, builder = kernel.settings.application, kernel.builder

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            app.refuse_unchecked()
        except DiscoveryError as error:
            kernel.start_error = error
            raise
        async with kernel.running():
            if when_started is not None:
                when_started()
            yield

    app = Application(
        title=application.title,
        version=application.version,
        debug=application.debug,
        openapi_url=application.openapi_url,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        exception_handlers={**HANDLERS, **builder.error_handlers},
        **{"telemetry": _NO_TELEMETRY, **builder.fastapi_options},
    )
    app.kernel = kernel
    app.access_log = log_request
    app.is_traced = "telemetry" in builder.fastapi_options
    app.mounts = []
    built_in = len(app.router.routes)  # that of the OpenAPI document
    for rule in (*_route_rules(kernel), *builder.route_rules):
        _refuse(kernel.modules, rule)
    for module in kernel.modules:
        if module.router is not None:
            prefix = "" if module.router.prefix else module.prefix
            tags: list[Any] = [] if module.router.tags else list(module.tags)
            app.include_router(module.router, prefix=prefix, tags=tags)
            router, context = router_for(app, module.router, prefix), kernel.contexts[module.name]
            most = context.settings.max_body_bytes
            app.mounts.append(ModuleRoutes(module.prefix, router, builder.compile_endpoint, context, most))
    for prefix, mounted in builder.mounts.items():
        mount = Mount(prefix, mounted.app)
        app.router.routes.append(mount)
        router = APIRouter(routes=[mount])
        app.mounts.append(ModuleRoutes(prefix, router, None, None, mounted.max_body_bytes))
    app.dispatched = app.router.routes[built_in:]
    app.router.routes += builder.routes
    app.checked = list(app.router.routes)
    return app


def _route_rules(kernel: Kernel) -> Iterator[RouteRule]:
    yield unknown_kinds
    if kernel.settings.auth.enabled:
        yield _without_policy
    if kernel.builder.websockets is None:
        yield unserved_websockets


def _refuse(modules: Sequence[DiscoveredModule], rule: RouteRule) -> None:
    """Raise DiscoveryError where a module's router has faults."""
    routers = [(module.name, module.router) for module in modules if module.router is not None]
    if found := [f"modules/{name}/router.py: {one}" for name, router in routers for one in rule(router)]:
        raise DiscoveryError(found)


def _without_policy(router: APIRouter) -> Iterator[str]:
    return (f"{one.route} {NO_POLICY}" for one in unguarded(router))


def _without_traceback(send: Send, app: Application) -> Send:
    """A start that fails says why in one line; Starlette would send the traceback, which is logged as DEBUG."""

    async def send_clean(message: Message) -> None:
        error = app.kernel.start_error
        if message["type"] == "lifespan.startup.failed" and error is not None:
            message = {**message, "message": f"Cannot start: {_reason(error, app.kernel.settings.root)}"}
            _log.debug("start failed", exc_info=error)
        await send(message)

    return send_clean


def _reason(error: BaseException, root: Path) -> str:
    """Return the message of an error, with its place in the modules if the error is not the kernel's own."""
    if isinstance(error, ProjectError | DatabaseUnavailable):
        return str(error)
    where = [
        f" ({frame.filename.removeprefix(f'{root}/')}:{frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(f"{root}/modules/")
    ]
    return f"{type(error).__name__}: {error}{''.join(where[-1:])}"
