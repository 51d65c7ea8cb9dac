"""The extension `remote`."""

from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from kernel.ext.messaging.bus import Exchange
from kernel.ext.messaging.declared import Declared, handled_messages
from kernel.ext.messaging.inbound import RemoteModules
from kernel.ext.messaging.watch import DeliveryWatch
from kernel.ext.remote.client import Peer
from kernel.ext.remote.server import PREFIX, Internal
from kernel.ext.remote.settings import InternalSettings
from kernel.ext.remote.signing import Tokens
from kernel.extension import ApplicationBuilder, Extension, Mounted
from kernel.modules.discovery import contracts_of
from kernel.runtime import Kernel
from kernel.settings import Fault, SettingsGroup, Sources


class Remote(Extension):
    """Contracts of modules that run in other processes, over HTTP."""

    name = "remote"
    requires = ("messaging",)
    settings = (InternalSettings,)

    def locate(self, sources: Sources, enabled: Collection[str] | None) -> Collection[str]:
        return {
            folder.name
            for folder in (sources.root / "modules").glob("*")
            if sources.origin(f"{folder.name.upper()}_URL") and folder.name not in (enabled or ())
        }

    def check_settings(
        self, sources: Sources, groups: Mapping[type[SettingsGroup], SettingsGroup], elsewhere: Collection[str]
    ) -> Iterator[Fault]:
        settings = groups.get(InternalSettings)
        if not isinstance(settings, InternalSettings) or settings.is_off or settings.can_sign:
            return
        for name in sorted(elsewhere):
            if sources.origin(variable := f"{name.upper()}_URL") is not None:
                yield Fault(variable, "needs INTERNAL_SECRET (or INTERNAL_PRIVATE_KEY), to sign what we ask there")

    def configure(self, app: ApplicationBuilder) -> None:
        settings = app.settings
        self._tokens = Tokens(settings.group(InternalSettings))
        handlers = [one for module in app.modules for one in Declared.of(module.files).handlers]

        def reach(name: str, url: str) -> Peer:
            return found.get(name) or Peer(name, url, (), (), app.http, self._tokens, settings.http_client)

        found = {
            name: Peer(
                name,
                url,
                contracts_of(settings.root, name),
                handled_messages(handlers, name),
                app.http,
                self._tokens,
                settings.http_client,
            )
            for name, url in settings.elsewhere.items()
            if any(name in module.manifest.depends_on for module in app.modules)
        }
        # The modules elsewhere whose contracts are called or whose messages are handled here.
        self.peers = list(found.values())
        app.provide(RemoteModules(found, reach))
        for peer in self.peers:
            app.contracts.update(peer.ports(app.rule))
            app.health_checks[f"{peer.module}.contract"] = peer.check

    def assemble(self, kernel: Kernel) -> None:
        internal = Internal(
            {module.name: list(module.manifest.provides) for module in kernel.modules},
            {module.name: Declared.of(module.files).messages for module in kernel.modules},
            kernel.contracts,
            kernel.settings,
            self._tokens,
            kernel.get(Exchange).inbound,
            kernel.get(DeliveryWatch),
        )
        kernel.builder.mounts[PREFIX] = Mounted(internal, kernel.settings.group(InternalSettings).max_body_bytes)

    @asynccontextmanager
    async def serving(self, kernel: Kernel) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for peer in self.peers:
                seconds = kernel.settings.group(InternalSettings).compare_seconds
                await stack.enter_async_context(peer.comparing(seconds))
            yield

    def check_start(self, kernel: Kernel) -> Iterator[Fault]:
        is_told = kernel.settings.application.enabled_modules is not None
        elsewhere = kernel.get(Exchange).elsewhere
        used = {name for module in kernel.modules for name in module.manifest.depends_on} | {*elsewhere.modules}
        read = [name for name in kernel.settings.elsewhere if name not in elsewhere.unread]
        if read and not is_told and not used & {*kernel.settings.elsewhere}:
            variables = ", ".join(f"{name.upper()}_URL" for name in read)
            here = [module.name for module in kernel.modules]
            problem = (
                f"is missing. By {variables} these modules run in other processes: {', '.join(read)}. Nothing in the "
                f"rest ({', '.join(here) or 'none'}) uses them. Name the modules of this process, for instance "
                f"ENABLED_MODULES={','.join([read[0], *here])}; if the rest is all: ENABLED_MODULES={','.join(here)}"
            )
            yield Fault("ENABLED_MODULES", problem)
