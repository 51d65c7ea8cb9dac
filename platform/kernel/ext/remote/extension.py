"""The extension `remote`."""

from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from kernel.ext.channel.channel import ChannelSlot
from kernel.ext.channel.elsewhere import has_code, with_address
from kernel.ext.remote.channel import HttpChannel
from kernel.ext.remote.client import RemoteModule, SigningTransport
from kernel.ext.remote.server import PREFIX, ContractServer
from kernel.ext.remote.settings import InternalSettings
from kernel.ext.remote.signing import CallSigner
from kernel.extension import ApplicationBuilder, Extension, Mounted
from kernel.modules.contracts import methods_of
from kernel.modules.discovery import DiscoveredModule, DiscoveryError, contracts_of
from kernel.runtime import Kernel
from kernel.settings import Fault, SettingsGroup, Sources


class Remote(Extension):
    """Contracts of modules that run in other processes, and the internal channel, over HTTP."""

    name = "remote"
    requires = ("channel", "openapi")
    packages = ("jwt", "cryptography")
    settings = (InternalSettings,)

    def locate(self, sources: Sources, enabled: Collection[str] | None) -> Collection[str]:
        return with_address(sources, enabled)

    def check_settings(
        self, sources: Sources, groups: Sequence[SettingsGroup], elsewhere: Collection[str]
    ) -> Iterator[Fault]:
        settings = next((one for one in groups if isinstance(one, InternalSettings)), None)
        if settings is None or settings.is_off or settings.can_sign:
            return
        for name in sorted(elsewhere):
            if sources.origin(variable := f"{name.upper()}_URL") is not None:
                yield Fault(variable, "needs INTERNAL_SECRET (or INTERNAL_PRIVATE_KEY), to sign the calls to it")

    def configure(self, app: ApplicationBuilder) -> None:
        if problems := [one for module in app.modules for one in _collisions(module)]:
            raise DiscoveryError(problems)
        settings = app.settings
        self._signer = CallSigner(settings.group(InternalSettings))
        app.http.transports.insert(0, SigningTransport)
        used = {name for module in app.modules for name in module.manifest.depends_on} & settings.elsewhere.keys()
        modules = {
            name: RemoteModule(
                name,
                url,
                contracts_of(settings.root, name) if name in used else (),
                app.http,
                self._signer,
                settings.http_client,
            )
            for name, url in settings.elsewhere.items()
        }
        app.get(ChannelSlot).channel = self.channel = HttpChannel(modules, app.health_checks)
        for name in sorted(used):
            app.contracts.update(modules[name].clients(app.rule))
            self.channel.compare(name)

    def assemble(self, kernel: Kernel) -> None:
        server = ContractServer(
            {module.name: list(module.manifest.provides) for module in kernel.modules},
            kernel.contracts,
            self.channel,
            kernel.settings,
            self._signer,
        )
        kernel.builder.mounts[PREFIX] = Mounted(server, kernel.settings.group(InternalSettings).max_body_bytes)

    @asynccontextmanager
    async def serving(self, kernel: Kernel) -> AsyncIterator[None]:
        seconds = kernel.settings.group(InternalSettings).compare_seconds
        async with AsyncExitStack() as stack:
            for module in self.channel.compared.values():
                await stack.enter_async_context(module.comparing(seconds))
            yield

    def check_start(self, kernel: Kernel) -> Iterator[Fault]:
        settings = kernel.settings
        names = sorted(name for name in settings.elsewhere if has_code(settings.root, name))
        if names and settings.application.enabled_modules is None and not self.channel.connected:
            variables = ", ".join(f"{name.upper()}_URL" for name in names)
            here = [module.name for module in kernel.modules]
            problem = (
                f"is missing. By {variables} these modules run in other processes: {', '.join(names)}. The other "
                f"modules ({', '.join(here) or 'none'}) do not use them. Name the modules of this process, for "
                f"instance ENABLED_MODULES={','.join([names[0], *here])}. If it has the other modules only: "
                f"ENABLED_MODULES={','.join(here)}"
            )
            yield Fault("ENABLED_MODULES", problem)


def _collisions(module: DiscoveredModule) -> Iterator[str]:
    """Yield the paths of a module that calls between processes use."""
    if module.router is not None and f"{module.prefix}/".startswith("/internal/"):
        yield (
            f"modules/{module.name} has the prefix {module.prefix}, but /internal is reserved for calls "
            "between processes. Choose another prefix."
        )
    provided = Counter(name for contract in module.manifest.provides for name in methods_of(contract))
    for name in [name for name, times in provided.items() if times > 1]:
        address = f"/internal/contracts/{module.name}/{name}"
        problem = f"modules/{module.name} provides {name} in two contracts with the same address, {address}."
        yield f"{problem} Rename one of these methods."
