"""The application: what is assembled once at start, and the factory that serves it."""

import traceback
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import structlog
from fastapi import APIRouter, Depends, FastAPI
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernel.auth.bearer import BearerTokens
from kernel.auth.policy import NO_POLICY, document_scopes, guards_of, unguarded
from kernel.auth.principal import Authentication
from kernel.database import AsyncDBPool, DatabaseUnavailable
from kernel.database.errors import MigrationError, PoolExhausted, RoleError
from kernel.database.revisions import is_at_head
from kernel.database.server_session import NoSession, place_of, refuse_undeclared_pooler
from kernel.ext.cache.cache import AnswerCache, Cached, misplaced
from kernel.ext.idempotency.idempotency import Keys, of_nobody
from kernel.ext.messaging.bus import WITHOUT_SUBSCRIBERS, Elsewhere, Exchange
from kernel.ext.messaging.inbound import Correspondent
from kernel.ext.messaging.watch import DeliveryWatch
from kernel.ext.rate_limit.rate_limit import CallerShares, Limits, Overall
from kernel.ext.remote.client import Peer
from kernel.ext.remote.server import PREFIX, Internal
from kernel.ext.remote.signing import Tokens
from kernel.ext.roles import roles
from kernel.ext.store.store import SharedStore
from kernel.ext.telemetry.meter import Meter
from kernel.ext.telemetry.tracing import Tracing
from kernel.health import Check, Degraded
from kernel.http_client.client import HttpxRestClientPool, UpstreamFailed
from kernel.modules.contracts import CallRule, Contract, ContractUnavailable, local_port
from kernel.modules.discovery import (
    DiscoveredModule,
    DiscoveryError,
    contracts_of,
    discover,
    handled_messages,
    messages_of,
    subscribers_elsewhere,
)
from kernel.modules.manifest import ModuleContext
from kernel.settings import (
    ApplicationSettings,
    Environment,
    Fault,
    MessagingSettings,
    Settings,
    SettingsError,
    Sources,
    find_root,
    read_group,
)
from kernel.web.compression import Compression
from kernel.web.dispatch import PROBES, Dispatcher, Site
from kernel.web.docs import add_docs
from kernel.web.openapi import ANY_FAILURE, document_problems
from kernel.web.problems import HANDLERS, RETRY_AFTER_SECONDS, answer
from kernel.web.request_context import Shell
from kernel.web.routes import rest_of, router_for, speaks_websocket, unknown_kinds
from kernel.web.sockets import SocketErrors

if TYPE_CHECKING:
    from kernel.database.migrations import History

_log = structlog.get_logger("kernel.application")

# Level 9 takes three times as long as 5 for an answer a few percent smaller (zlib's own figures).
_GZIP_LEVEL = 5
_MAX_BODY_BYTES_ELSEWHERE = 0  # no route outside the modules reads a body


class Project(NamedTuple):
    """What is read of a project, once, before anything is opened."""

    settings: Settings
    # Each after the modules it depends on.
    modules: tuple[DiscoveredModule, ...]


def load_project(sources: Sources | None = None, elsewhere: Collection[str] = ()) -> Project:
    """All settings, the modules' own included, from `sources` (by default those of the project we are in), and modules.

    Nothing is read of the modules `elsewhere`, to which those belong that have an address and are not enabled: see
    discover. Raises SettingsError and DiscoveryError.
    """
    sources = sources or Sources.read(find_root())
    try:
        enabled = read_group(ApplicationSettings, sources, "APPLICATION_").enabled_modules
        subscribers = read_group(MessagingSettings, sources, "MESSAGING_").subscribers
    except SettingsError:  # reported below, together with everything else
        enabled, subscribers = None, ()
    addressed = {
        folder.name
        for folder in (sources.root / "modules").glob("*")
        if sources.origin(f"{folder.name.upper()}_URL") and folder.name not in (enabled or ())
    }
    unread = {name for name in subscribers if not (sources.root / "modules" / name / "module.py").is_file()}
    elsewhere = {*elsewhere, *addressed, *unread}
    modules = discover(sources.root, enabled, elsewhere)
    types = {module.name: module.settings_type for module in modules}
    return Project(Settings.load(sources, types, elsewhere), modules)


def load_settings(sources: Sources | None = None) -> Settings:
    """The settings of a project alone: see load_project."""
    return load_project(sources).settings


class Kernel:
    """One application's modules and what they share. Nothing is opened before `running`."""

    def __init__(
        self,
        settings: Settings,
        modules: tuple[DiscoveredModule, ...] | None = None,
        ports: Mapping[type[Contract], Contract] | None = None,
    ) -> None:
        """`modules` are those that were found when the settings were loaded; without them, they are found here.

        `ports` answer the contracts of modules elsewhere.
        """
        self.settings = settings
        # Each after the modules it depends on. Everything that talks about structure reads this.
        self.modules = (
            discover(settings.root, settings.application.enabled_modules, settings.elsewhere)
            if modules is None
            else modules
        )
        with_tables = [module.name for module in self.modules if module.metadata is not None]
        self.tracing = Tracing.configured(settings.application)
        watch, around = (None, None) if self.tracing is None else (self.tracing.watch, self.tracing.call)
        self.pool = AsyncDBPool(settings.database, settings.modules, settings.root, with_tables, watch)
        rule = CallRule(is_strict=settings.application.strict_contract_calls)
        self.http = HttpxRestClientPool(settings.http_client, around, rule.before)
        self.contexts = {
            module.name: ModuleContext(
                module.name,
                settings.root,
                settings.modules[module.name],
                self.pool.database(module.name),
                self.http,
                rule,
            )
            for module in self.modules
        }
        for module in self.modules:
            if module.keys is not None:
                context = self.contexts[module.name]
                keep_seconds = settings.idempotency.keep_seconds
                context.keys = Keys(module.name, context.database, module.keys, keep_seconds)
        self.authentication: Authentication = BearerTokens(settings.auth, self.http, settings.root)
        self.store = SharedStore(settings.store)
        self.limits = Limits(settings.rate_limit, self.store)
        placements = [context.database.placement for context in self.contexts.values()]
        reads_elsewhere = any(one.read_url != one.url for one in placements)
        lag_seconds = settings.database.read_lag_seconds if reads_elsewhere else 0
        self.cache = AnswerCache(settings.store, self.store, settings.application.version, lag_seconds)
        self.tokens = Tokens(settings.internal)
        # The modules elsewhere whose contracts are called or whose messages are handled here.
        self.peers = [
            Peer(
                name,
                url,
                contracts_of(settings.root, name),
                handled_messages(self.modules, name),
                self.http,
                self.tokens,
                settings.http_client,
            )
            for name, url in settings.elsewhere.items()
            if any(name in module.manifest.depends_on for module in self.modules)
        ]
        remote = {contract: port for peer in self.peers for contract, port in peer.ports(rule).items()}
        self.ports: dict[type[Contract], Contract] = (
            remote
            | dict(ports or {})
            | {
                contract: local_port(contract, self.contexts[module.name].database, implementation, rule)
                for module in self.modules
                for contract, implementation in module.manifest.provides.items()
            }
        )
        self.exchange = Exchange(
            [self._correspondent(module) for module in self.modules],
            settings.messaging,
            settings.database,
            self._elsewhere(),
            self.tracing,
        )
        told_by = {
            name.partition(".")[0] for name in self.exchange.handlers if name.partition(".")[0] not in self.contexts
        }
        self.watch = DeliveryWatch(
            self.exchange, settings, {peer.module: peer for peer in self.peers if peer.module in told_by}
        )
        self.meter = Meter() if settings.telemetry.metrics else None
        # What is open from before the modules' start to after their end, beside them.
        self.beside: list[Callable[[], AbstractAsyncContextManager[None]]] = [self.cache.running]
        if self.tracing is not None:
            self.beside.append(self.tracing.running)
        self.is_started = False
        # Still serving, and about to end: nobody should send us more.
        self.is_stopping = False
        self.start_error: BaseException | None = None

    @asynccontextmanager
    async def running(self, *, relays: bool | None = None) -> AsyncIterator[None]:
        """Open everything in order; close it in reverse, also when opening fails half way.

        `relays`: deliver messages; without a word, as the settings say.
        """
        async with AsyncExitStack() as stack:
            try:
                self._refuse()
                await self._open(stack)
                for peer in self.peers:
                    await stack.enter_async_context(peer.comparing(self.settings.internal.compare_seconds))
                relays = self.settings.messaging.relay if relays is None else relays
                if relays:
                    await stack.enter_async_context(self.exchange.running())
                if self.exchange.is_used:
                    await stack.enter_async_context(self.watch.running(relays=relays))
            except BaseException as error:
                self.start_error = error
                raise
            self.is_started = True
            _log.info("started", modules=[module.name for module in self.modules])
            try:
                yield
            finally:
                self.is_started = False

    def published(self) -> list[str]:
        """The names of the messages that the modules here declare and can publish. Raises DiscoveryError."""
        return [
            message.message_name()
            for module in self.modules
            if module.outbox is not None
            for message in messages_of(self.settings.root, module.name)
        ]

    def _refuse(self) -> None:
        """Raise SettingsError for settings with which the application would start and not do what is wanted of it."""
        faults = []
        if lost := self.exchange.lost(self.published()):
            if self.settings.messaging.is_local:
                _log.warning("messages without a subscriber", messages=lost, advice=WITHOUT_SUBSCRIBERS)
            else:
                faults = [Fault(name, WITHOUT_SUBSCRIBERS) for name in lost]
        is_told = self.settings.application.enabled_modules is not None
        used = {name for module in self.modules for name in module.manifest.depends_on} | {
            *self.exchange.elsewhere.modules
        }
        read = [name for name in self.settings.elsewhere if name not in self.exchange.elsewhere.unread]
        if read and not is_told and not used & {*self.settings.elsewhere}:
            variables = ", ".join(f"{name.upper()}_URL" for name in read)
            here = [module.name for module in self.modules]
            problem = (
                f"is missing. By {variables} these modules run in other processes: {', '.join(read)}. Nothing in the "
                f"rest ({', '.join(here) or 'none'}) uses them. Name the modules of this process, for instance "
                f"ENABLED_MODULES={','.join([read[0], *here])}; if the rest is all: ENABLED_MODULES={','.join(here)}"
            )
            faults.append(Fault("ENABLED_MODULES", problem))
        if faults:
            raise SettingsError(faults)

    async def _open(self, stack: AsyncExitStack) -> None:
        stack.push_async_callback(self.pool.close)
        await stack.enter_async_context(self.http)
        stack.push_async_callback(self.store.close)
        for opened in self.beside:
            await stack.enter_async_context(opened())
        await self._prepare_databases()
        for module in self.modules:
            if module.manifest.lifespan is not None:
                context = self.contexts[module.name]
                context.state = await stack.enter_async_context(module.manifest.lifespan(context))

    def histories(self) -> Iterator["History"]:
        """The migrations of every module that has tables, in the order in which they are applied."""
        from kernel.database.migrations import History  # noqa: PLC0415  # Alembic is dear and seldom needed

        for module in self.modules:
            if module.metadata is not None:
                placement, config = self.contexts[module.name].database.placement, self.settings.database
                role = self.pool.role(module.name) if config.role_per_module else None
                yield History(module.name, module.metadata, placement, module.migrations, config, role)

    def roles(self) -> list[roles.Role]:
        """The PostgreSQL role of every module that is not on SQLite. Raises RoleError."""
        return [role for module in self.modules if (role := self.pool.role(module.name)) is not None]

    def health_checks(self) -> Mapping[str, Check]:
        """What readiness asks, by component: each database, the client pool, and what the modules contribute."""
        checks: dict[str, Check] = {"http_client": self._check_http_client}
        seen: set[object] = set()
        for module in self.modules:
            context = self.contexts[module.name]
            placement = context.database.placement
            if module.metadata is not None and (placement.url, placement.read_url) not in seen:
                seen.add((placement.url, placement.read_url))
                is_shared = placement.schema is not None and context.settings.database_url is None
                checks["database" if is_shared else f"{module.name}.database"] = partial(
                    _unless_busy, context.database.check
                )
            for component, check in module.manifest.health_checks.items():
                checks[f"{module.name}.{component}"] = partial(check, context)
        if self.exchange.broker is not None:
            checks["broker"] = self.exchange.check_broker
        if self.exchange.is_used:
            checks["messages"] = self.watch.check
        return checks | {f"{peer.module}.contract": peer.check for peer in self.peers}

    def _elsewhere(self) -> Elsewhere:
        """What is known of the modules in other processes that could subscribe to messages of this one."""
        root, publishers = self.settings.root, [module.name for module in self.modules if module.outbox is not None]
        subscribers = {
            name: found
            for name, found in subscribers_elsewhere(root, self.contexts).items()
            if name.partition(".")[0] in publishers
        }
        unread = [name for name in self.settings.elsewhere if not (root / "modules" / name / "module.py").is_file()]
        wanted = {one.partition(".")[0] for found in subscribers.values() for one in found} | {*unread}
        peers = {peer.module: peer for peer in self.peers}
        modules = {
            name: peers.get(name) or Peer(name, url, (), (), self.http, self.tokens, self.settings.http_client)
            for name, url in self.settings.elsewhere.items()
            if name in wanted and publishers
        }
        return Elsewhere(subscribers, modules, tuple(unread if publishers else ()))

    async def _check_http_client(self) -> None:
        self.http.get_client()

    def _correspondent(self, module: DiscoveredModule) -> Correspondent:
        """The module as one that tells and is told. Its handlers get their dependencies as a request would."""
        context = self.contexts[module.name]
        application = Starlette()
        application.state.ports, application.state.kernel = self.ports, self
        connection = HTTPConnection(
            {"type": "http", "app": application, "headers": [], "path": "", "kernel.module": context}
        )
        return Correspondent(module.name, context.database, module.handlers, module.outbox, module.inbox, connection)

    async def _prepare_databases(self) -> None:
        """Apply the migrations and make the roles in LOCAL; elsewhere verify that none is missing."""
        if self.settings.database.role_per_module and self.settings.database.pooler == "none":
            await self._refuse_undeclared_poolers()
        if self.settings.application.migrates_at_start:
            if self.settings.database.role_per_module:
                await roles.apply(self.roles(), self.settings.database)
            for history in self.histories():
                await history.upgrade()
            return
        if self.settings.database.role_per_module:
            await roles.verify(self.roles(), self.settings.database)
        with_tables = [module for module in self.modules if module.metadata is not None]
        if all([await self._is_at_head(one) for one in with_tables]):
            return
        for history in self.histories():
            if missing := await history.pending():
                # Who shares the settings with others, which say where this module runs, has to ask for it by name.
                is_addressed = self.settings.sources.origin(f"{history.module.upper()}_URL")
                command = f"ENABLED_MODULES={history.module} kernel migrate" if is_addressed else "kernel migrate"
                raise MigrationError(
                    f"the tables of {history.module} lack {len(missing)} migration(s), the first being {missing[0]}: "
                    f"run `{command}` before the start"
                )

    async def _refuse_undeclared_poolers(self) -> None:
        placements = [self.contexts[module.name].database.placement for module in self.modules]
        for url in {url for one in placements if one.schema for url in (one.url, one.read_url)}:
            try:
                await refuse_undeclared_pooler(url, self.settings.database)
            except NoSession as error:
                raise RoleError(str(error)) from error

    async def _is_at_head(self, module: DiscoveredModule) -> bool:
        database = self.contexts[module.name].database
        try:
            return await is_at_head(database, module.migrations)
        except DatabaseUnavailable as error:
            raise DatabaseUnavailable(f"{error}: that of {module.name}, {place_of(database.placement.url)}") from error


class Application(FastAPI):
    """FastAPI with the kernel's layers around its routes, and no others."""

    kernel: Kernel
    # By module, and `internal`.
    sites: dict[str, Site]
    # Routes whose policies create_app has checked, and the kernel's own, each of which decides itself who may ask.
    checked: list[BaseRoute]

    # Whether FastAPI's own telemetry has anybody to report to, once that is known. It would ask at every request.
    is_traced = True

    def build_middleware_stack(self) -> ASGIApp:
        """From the inside out. FastAPI's own stack would put the catch-all outside CORS and add three layers."""
        settings = self.kernel.settings
        self.refuse_unchecked()  # again: what is added after the start is not served either
        self.is_traced = self._native_telemetry.enabled()
        compiles = settings.application.compiled_endpoints
        app: ASGIApp = Dispatcher(self, self.sites, _MAX_BODY_BYTES_ELSEWHERE, guards_of, compiles=compiles)
        percent = settings.server.caller_share_percent
        requests, websockets = (
            max(1, most * percent // 100)
            for most in (settings.server.max_concurrent_requests, settings.server.max_websockets)
        )
        app = CallerShares(app, self.kernel.limits, requests, websockets, PREFIX)
        if limit := settings.rate_limit.overall:
            # Probes are not counted, nor are calls that another process of this application has signed.
            app = Overall(app, self.kernel.limits, limit, PROBES, PREFIX)
        if self.kernel.store.is_configured:
            app = self.kernel.store.around(app)
        http = ExceptionMiddleware(app, self.exception_handlers, debug=False)
        app = SocketErrors(app, http, self.exception_handlers)
        for layer, args, options in reversed(self.user_middleware):
            app = layer(app, *args, **options)
        app = Compression(app, settings.server.gzip_minimum_bytes, _GZIP_LEVEL)
        return self._shell(app)

    @property
    def speaks_websocket(self) -> bool:
        """Whether a route may answer a WebSocket. Otherwise a request to upgrade is answered as if it had not asked."""
        modules = [module.router for module in self.kernel.modules if module.router is not None]
        return any(map(speaks_websocket, (*modules, rest_of(self, self.checked))))

    def overloaded(self) -> ASGIApp:
        """What answers, in place of the whole application, a request that is one too many."""
        return self._shell(_overloaded)

    def _shell(self, app: ASGIApp) -> Shell:
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
        return Shell(
            app,
            cors,
            allowed_hosts=settings.server.allowed_hosts,
            allowed_origins=settings.cors.allow_origins,
            strict_transport=served_over_tls,
            meter=self.kernel.meter,
        )

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, with the errors as they really are."""
        if self.openapi_schema is None:
            schema = super().openapi()
            for module in self.kernel.modules:
                if module.router is not None:
                    document_scopes(schema, "" if module.router.prefix else module.prefix, module.router)
            self.openapi_schema = document_problems(schema)
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
        faults = [*unknown_kinds(added), *(_without_policy(added) if self.kernel.settings.auth.enabled else ())]
        if faults:
            raise DiscoveryError(f"outside the modules: {one}" for one in faults)


def create_app(
    settings: Settings | None = None,
    modules: tuple[DiscoveredModule, ...] | None = None,
    when_started: Callable[[], None] | None = None,
    ports: Mapping[type[Contract], Contract] | None = None,
) -> Application:
    """Assemble an application; nothing is opened before its lifespan, at whose start `when_started` is called last.

    `ports` answer the contracts of modules elsewhere. `uvicorn --factory kernel.application:create_app` serves it.
    Raises SettingsError and DiscoveryError.
    """
    kernel = Kernel(*(load_project() if settings is None else (settings, modules)), ports)
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
        openapi_url="/openapi.json" if application.shows_docs else None,
        docs_url=None,
        redoc_url=None,
        responses=ANY_FAILURE,
        lifespan=lifespan,
        telemetry=None if kernel.tracing is None else kernel.tracing.of_requests,
        exception_handlers=HANDLERS | dict.fromkeys((ContractUnavailable, UpstreamFailed), _on_contract_unavailable),
    )
    app.kernel = kernel
    app.state.kernel = kernel
    app.state.ports = kernel.ports
    app.sites = {}
    _refuse(kernel.modules, unknown_kinds)
    if kernel.settings.auth.enabled:
        _refuse(kernel.modules, _without_policy)
    _refuse([module for module in kernel.modules if module.keys is not None], of_nobody)
    if Cached.is_declared:
        _refuse(kernel.modules, misplaced)
    if application.shows_docs:
        add_docs(app)
    for module in kernel.modules:
        if module.router is not None:
            prefix = "" if module.router.prefix else module.prefix
            tags: list[Any] = [] if module.router.tags else list(module.tags)
            app.include_router(module.router, prefix=prefix, tags=tags)
            context = kernel.contexts[module.name]
            route, router = app.router.routes[-1], router_for(app, module.router, prefix)
            app.sites[module.name] = Site(module.prefix, route, router, context, context.settings.max_body_bytes)
    internal = Internal(
        {module.name: list(module.manifest.provides) for module in kernel.modules},
        {module.name: module.messages for module in kernel.modules},
        kernel.ports,
        kernel.settings,
        kernel.tokens,
        kernel.exchange.inbound,
        kernel.watch,
    )
    mount = Mount(PREFIX, internal)
    app.router.routes.append(mount)
    max_body_bytes = kernel.settings.internal.max_body_bytes
    app.sites["internal"] = Site(PREFIX, mount, APIRouter(routes=[mount]), None, max_body_bytes)
    app.checked = list(app.router.routes)
    return app


async def _unless_busy(check: Check) -> None:
    """A busy pool is no reason to send nobody: under load all processes have one, and nobody would be left to serve."""
    try:
        await check()
    except PoolExhausted as error:
        raise Degraded(str(error)) from error


def _refuse(modules: Sequence[DiscoveredModule], faults: Callable[[APIRouter], Iterator[str]]) -> None:
    """Raise DiscoveryError where a module's router has faults."""
    routers = [(module.name, module.router) for module in modules if module.router is not None]
    if found := [f"modules/{name}/router.py: {one}" for name, router in routers for one in faults(router)]:
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
    """What went wrong, and where in the modules if it is not one of our own errors."""
    if isinstance(error, MigrationError | RoleError | DatabaseUnavailable | SettingsError):
        return str(error)
    where = [
        f" ({frame.filename.removeprefix(f'{root}/')}:{frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(f"{root}/modules/")
    ]
    return f"{type(error).__name__}: {error}{''.join(where[-1:])}"


async def get_kernel(connection: HTTPConnection) -> Kernel:
    """A dependency: the kernel of the application that is asked."""
    kernel: Kernel = connection.app.state.kernel
    return kernel


TheKernel = Annotated[Kernel, Depends(get_kernel)]
