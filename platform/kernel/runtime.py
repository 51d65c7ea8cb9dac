"""The kernel: what one running application holds, and how it starts and stops."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeVar

import structlog
from fastapi import Depends

from kernel.auth.principal import Authentication, DeveloperOnly
from kernel.database import AsyncDBPool, DatabaseUnavailable
from kernel.database.errors import MigrationError, PoolExhausted
from kernel.database.revisions import is_at_head
from kernel.database.server_session import place_of
from kernel.extension import ApplicationBuilder, Extension, load_extensions
from kernel.health import Check, Degraded
from kernel.http_client import HttpxRestClientPool
from kernel.modules.contracts import CallRule, Contract, local_client
from kernel.modules.discovery import DiscoveredModule, discover
from kernel.modules.manifest import ModuleContext
from kernel.running import RUNNING
from kernel.settings import Fault, Settings, SettingsError
from kernel.web.context import CurrentContext

if TYPE_CHECKING:
    from kernel.database.migrations import History

_log = structlog.get_logger("kernel.application")

Thing = TypeVar("Thing")


class Kernel:
    """One application's modules and what they share. Nothing is opened before `running`."""

    def __init__(
        self,
        settings: Settings,
        modules: tuple[DiscoveredModule, ...] | None = None,
        extensions: tuple[type[Extension], ...] | None = None,
        contracts: Mapping[type[Contract], Contract] | None = None,
    ) -> None:
        """Take what load_project has found; without `modules` or `extensions`, find them.

        `contracts` implement the contracts of modules that do not run here. Raises DiscoveryError and ExtensionError.
        """
        self.settings = settings
        kinds = load_extensions(settings.root) if extensions is None else extensions
        if modules is None:
            modules = discover(settings.root, settings.application.enabled_modules, settings.elsewhere, kinds)
        # Each after the modules it depends on. Everything that talks about structure reads this.
        self.modules = modules
        self.extensions = tuple(kind() for kind in kinds)
        with_tables = [module.name for module in modules if module.metadata is not None]
        self.pool = AsyncDBPool(settings.database, settings.modules, settings.root, with_tables)
        rule = CallRule(is_strict=settings.application.strict_contract_calls)
        self.http = HttpxRestClientPool(settings.http_client, before=rule.before)
        self.builder = ApplicationBuilder(settings, modules, self.pool, self.http, rule)
        for extension in self.extensions:
            self.builder.provide(extension)
            extension.configure(self.builder)
        self.authentication: Authentication = self.builder.authentication or DeveloperOnly()
        self.contexts = {module.name: self._context(module, rule) for module in modules}
        self.contracts: dict[type[Contract], Contract] = {
            **self.builder.contracts,
            **(contracts or {}),
            **{
                contract: local_client(contract, self.contexts[module.name].database, implementation, rule)
                for module in modules
                for contract, implementation in module.manifest.provides.items()
            },
        }
        for extension in self.extensions:
            extension.assemble(self)
        self.is_started = False
        # The process still serves and is about to end: it should get no more requests.
        self.is_stopping = False
        self.start_error: BaseException | None = None

    def _context(self, module: DiscoveredModule, rule: CallRule) -> ModuleContext:
        name, settings = module.name, self.settings
        context = ModuleContext(name, settings.root, settings.modules[name], self.pool.database(name), self.http, rule)
        for extension in self.extensions:
            extension.configure_module(module, context)
        return context

    def find(self, kind: type[Thing]) -> Thing | None:
        """Return the object of this type that an extension provides, or None."""
        return self.builder.find(kind)

    def get(self, kind: type[Thing]) -> Thing:
        """Return the object of this type that an extension provides. Raises LookupError."""
        return self.builder.get(kind)

    @asynccontextmanager
    async def running(self, *, serving: bool = True) -> AsyncIterator[None]:
        """Open everything in order; close it in reverse, also when opening fails half way.

        A command that only uses a module is not `serving`: for it, extensions start no work of their own.
        """
        async with AsyncExitStack() as stack:
            try:
                self._refuse()
                await self._open(stack)
                for extension in self.extensions if serving else ():
                    await stack.enter_async_context(extension.serving(self))
            except BaseException as error:
                self.start_error = error
                raise
            self.is_started = True
            RUNNING.add(self)
            _log.info("started", modules=[module.name for module in self.modules])
            try:
                yield
            finally:
                self.is_started = False
                RUNNING.discard(self)

    def _refuse(self) -> None:
        """Raise SettingsError with all that extensions have against the start."""
        faults = [fault for extension in self.extensions for fault in extension.check_start(self)]
        if self.settings.auth.enabled and isinstance(self.authentication, DeveloperOnly):
            problem = "is on, and no extension in use authenticates callers: install one, for instance bearer_tokens"
            faults.append(Fault("AUTH_ENABLED", problem))
        if faults:
            raise SettingsError(faults)

    async def _open(self, stack: AsyncExitStack) -> None:
        stack.push_async_callback(self.pool.close)
        await stack.enter_async_context(self.http)
        for extension in self.extensions:
            await stack.enter_async_context(extension.lifespan(self))
        await self._prepare_databases()
        for module in self.modules:
            if module.manifest.lifespan is not None:
                context = self.contexts[module.name]
                context.state = await stack.enter_async_context(module.manifest.lifespan(context))

    def histories(self) -> Iterator["History"]:
        """The migrations of every module that has tables, in the order in which they are applied."""
        from kernel.database.migrations import History  # noqa: PLC0415  # Alembic is slow to import

        inspector = None if self.builder.table_inspector is None else self.builder.table_inspector()
        for module in self.modules:
            if module.metadata is not None:
                placement, config = self.contexts[module.name].database.placement, self.settings.database
                role = None if self.pool.roles is None else self.pool.roles(module.name)
                yield History(module.name, module.metadata, placement, module.migrations, config, role, inspector)

    def health_checks(self) -> Mapping[str, Check]:
        """The checks of readiness, by component: databases, the client pool, those of extensions and of modules."""
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
        return checks | self.builder.health_checks

    async def _check_http_client(self) -> None:
        self.http.get_client()

    async def _prepare_databases(self) -> None:
        """Apply the migrations in LOCAL; elsewhere verify that none is missing."""
        if self.settings.application.migrates_at_start:
            for history in self.histories():
                await history.upgrade()
            return
        with_tables = [module for module in self.modules if module.metadata is not None]
        if all([await self._is_at_head(one) for one in with_tables]):
            return
        for history in self.histories():
            if missing := await history.pending():
                # A process that shares the settings that say where this module runs has to name it.
                is_addressed = self.settings.sources.origin(f"{history.module.upper()}_URL")
                command = f"ENABLED_MODULES={history.module} kernel migrate" if is_addressed else "kernel migrate"
                raise MigrationError(
                    f"the tables of {history.module} lack {len(missing)} migration(s), the first being {missing[0]}: "
                    f"run `{command}` before the start"
                )

    async def _is_at_head(self, module: DiscoveredModule) -> bool:
        database = self.contexts[module.name].database
        try:
            return await is_at_head(database, module.migrations)
        except DatabaseUnavailable as error:
            raise DatabaseUnavailable(f"{error}: that of {module.name}, {place_of(database.placement.url)}") from error


async def _unless_busy(check: Check) -> None:
    """Degrade readiness on pool exhaustion, and do not fail it; otherwise a busy cluster would stop serving."""
    try:
        await check()
    except PoolExhausted as error:
        raise Degraded(str(error)) from error


async def get_kernel(context: CurrentContext) -> Kernel:
    """A dependency: the kernel of the application."""
    return context.kernel


TheKernel = Annotated[Kernel, Depends(get_kernel)]
