"""The ASGI application: the kernel's layers around the modules' routes, and the factory that assembles them."""

import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernel.auth.policy import NO_POLICY, guards_of, unguarded
from kernel.database import DatabaseUnavailable
from kernel.errors import ProjectError
from kernel.extension import Extension
from kernel.http_client import UpstreamFailed
from kernel.modules.contracts import Contract, ContractUnavailable
from kernel.modules.discovery import DiscoveredModule, DiscoveryError
from kernel.project import load_project
from kernel.runtime import Kernel
from kernel.settings import Environment, Settings
from kernel.web.dispatch import Dispatcher, ModuleMount
from kernel.web.middleware import AccessLog, RequestContextMiddleware, log_request
from kernel.web.problems import HANDLERS, RETRY_AFTER_SECONDS, answer
from kernel.web.routes import rest_of, router_for, unknown_kinds, unserved_websockets

_log = structlog.get_logger("kernel.application")

# FastAPI would send spans and metrics wherever another library has configured OpenTelemetry to.
_NO_TELEMETRY = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
RouteRule = Callable[[APIRouter], Iterator[str]]
_MAX_BODY_BYTES_ELSEWHERE = 0  # no route outside the modules reads a body


class Application(FastAPI):
    """FastAPI with the kernel's layers around its routes, and no others."""

    kernel: Kernel
    # A server replaces it by that of an extension: `ApplicationBuilder.access_log`.
    access_log: AccessLog
    # By module, and by the prefix of what an extension mounts.
    mounts: dict[str, ModuleMount]
    # Routes whose policies create_app has checked, and the kernel's own, each of which decides itself who may ask.
    checked: list[BaseRoute]
    # True if FastAPI's own telemetry is in use. FastAPI would determine this at every request.
    is_traced: bool

    def build_middleware_stack(self) -> ASGIApp:
        """From the inside out. FastAPI's own stack would put the catch-all outside CORS and add three layers."""
        self.refuse_unchecked()  # again: what is added after the start is not served either
        compiler = self.kernel.builder.compile_endpoint
        app: ASGIApp = Dispatcher(self, self.mounts, _MAX_BODY_BYTES_ELSEWHERE, guards_of, compiler)
        for make in reversed(self.kernel.builder.middleware):
            app = make(app)
        http: ASGIApp = ExceptionMiddleware(app, self.exception_handlers, debug=False)
        sockets = self.kernel.builder.websockets
        app = http if sockets is None else sockets.answer_errors(app, http, self.exception_handlers)
        for layer, args, options in reversed(self.user_middleware):
            app = layer(app, *args, **options)
        for make in reversed(self.kernel.builder.outer_middleware):
            app = make(app)
        return self._with_context(app)

    def overloaded(self) -> ASGIApp:
        """Return the ASGI application that answers 503 for a request above the limit of the server."""
        return self._with_context(_overloaded)

    def _with_context(self, app: ASGIApp) -> RequestContextMiddleware:
        settings = self.kernel.settings
        cors = CORSMiddleware(
            app,
            allow_origins=settings.cors.allow_origins,
            allow_methods=settings.cors.allow_methods,
            allow_headers=settings.cors.allow_headers,
            expose_headers=settings.cors.expose_headers,
            allow_credentials=settings.cors.allow_credentials,
            max_age=settings.cors.max_age_seconds,
        )
        served_over_tls = settings.application.environment in {Environment.UAT, Environment.PROD}
        return RequestContextMiddleware(
            self.kernel,
            app,
            cors,
            self.access_log,
            allowed_hosts=settings.server.allowed_hosts,
            strict_transport=served_over_tls,
        )

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
    application = kernel.settings.application

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
        exception_handlers={
            **HANDLERS,
            **dict.fromkeys((ContractUnavailable, UpstreamFailed), _on_contract_unavailable),
            **kernel.builder.error_handlers,
        },
        **{"telemetry": _NO_TELEMETRY, **kernel.builder.fastapi_options},
    )
    app.kernel = kernel
    app.access_log = log_request
    app.is_traced = "telemetry" in kernel.builder.fastapi_options
    app.mounts = {}
    for rule in (*_route_rules(kernel), *kernel.builder.route_rules):
        _refuse(kernel.modules, rule)
    for module in kernel.modules:
        if module.router is not None:
            prefix = "" if module.router.prefix else module.prefix
            tags: list[Any] = [] if module.router.tags else list(module.tags)
            app.include_router(module.router, prefix=prefix, tags=tags)
            context = kernel.contexts[module.name]
            route, router = app.router.routes[-1], router_for(app, module.router, prefix)
            app.mounts[module.name] = ModuleMount(
                module.prefix, route, router, context, context.settings.max_body_bytes
            )
    for prefix, mounted in kernel.builder.mounts.items():
        mount = Mount(prefix, mounted.app)
        app.router.routes.append(mount)
        app.mounts[prefix] = ModuleMount(prefix, mount, APIRouter(routes=[mount]), None, mounted.max_body_bytes)
    app.router.routes += kernel.builder.routes
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


async def _on_contract_unavailable(request: Request, error: ContractUnavailable | UpstreamFailed) -> Response:
    """503: another module that this one asks, or an upstream, does not answer."""
    what = "upstream" if isinstance(error, UpstreamFailed) else "contract"
    _log.error(f"{what} unavailable", reason=str(error), cause=repr(error.__cause__))
    detail = "Something that this needs is not available. Try again shortly."
    return answer(request, 503, detail, headers={"Retry-After": RETRY_AFTER_SECONDS})


async def _overloaded(scope: Scope, receive: Receive, send: Send) -> None:
    detail = "The server has as many requests in work as it can bear. Try again shortly."
    headers = {"Retry-After": RETRY_AFTER_SECONDS}
    await answer(Request(scope), 503, detail, headers=headers)(scope, receive, send)


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
