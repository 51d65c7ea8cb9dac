"""Extensions that record the calls of their hooks."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

from kernel.extension import ApplicationBuilder, Extension
from kernel.modules.discovery import DiscoveredModule, ModuleFiles
from kernel.modules.manifest import ModuleContext
from kernel.runtime import Kernel
from kernel.settings import Fault, SettingsGroup, Sources


class Recording(Extension):
    """Records each call in `calls`, which the test empties."""

    calls: list[str] = []  # noqa: RUF012  # shared by both classes, so that their calls have one order

    def record(self, hook: str) -> None:
        """Record one call."""
        self.calls.append(f"{self.name}.{hook}")

    def locate(self, sources: Sources, enabled: Collection[str] | None) -> Collection[str]:
        self.record("locate")
        return ()

    def check_settings(
        self, sources: Sources, groups: Sequence[SettingsGroup], elsewhere: Collection[str]
    ) -> Collection[Fault]:
        self.record("check_settings")
        return ()

    def check_module(self, files: ModuleFiles) -> Collection[str]:
        self.record(f"check_module {files.name}")
        return ()

    def configure(self, app: ApplicationBuilder) -> None:
        self.record("configure")

    def configure_module(self, module: DiscoveredModule, context: ModuleContext) -> None:
        self.record(f"configure_module {module.name}")

    def assemble(self, kernel: Kernel) -> None:
        self.record("assemble")

    def check_start(self, kernel: Kernel) -> Collection[Fault]:
        self.record("check_start")
        return ()

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncIterator[None]:
        self.record("lifespan begins")
        yield
        self.record("lifespan ends")

    @asynccontextmanager
    async def serving(self, kernel: Kernel) -> AsyncIterator[None]:
        self.record("serving begins")
        yield
        self.record("serving ends")


class Second(Recording):
    """The first in the alphabet; requires the other one."""

    name = "a_second"
    requires = ("b_first",)


class First(Recording):
    """The other one requires it."""

    name = "b_first"
