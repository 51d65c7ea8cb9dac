"""The extension `cache`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kernel.ext.cache.cache import AnswerCache, misplaced
from kernel.ext.store.settings import StoreSettings
from kernel.ext.store.store import SharedStore
from kernel.extension import ApplicationBuilder, Extension
from kernel.runtime import Kernel


class Cache(Extension):
    """Responses that are kept for a while, in the store that all processes share or in this process."""

    name = "cache"
    requires = ("store",)

    def configure(self, app: ApplicationBuilder) -> None:
        app.route_rules.append(misplaced)

    def assemble(self, kernel: Kernel) -> None:
        settings = kernel.settings
        placements = [context.database.placement for context in kernel.contexts.values()]
        reads_elsewhere = any(one.read_url != one.url for one in placements)
        lag_seconds = settings.database.read_lag_seconds if reads_elsewhere else 0
        store = kernel.get(SharedStore)
        kernel.builder.provide(
            AnswerCache(settings.group(StoreSettings), store, settings.application.version, lag_seconds)
        )

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncIterator[None]:
        async with kernel.get(AnswerCache).running():
            yield
