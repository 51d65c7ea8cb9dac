"""The extension `cache`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kernel.ext.cache.cached import check_routes
from kernel.ext.cache.response_cache import ResponseCache
from kernel.ext.cache.settings import CacheSettings
from kernel.ext.store.settings import StoreSettings
from kernel.ext.store.store import SharedStore
from kernel.extension import ApplicationBuilder, Extension
from kernel.runtime import Kernel


class CacheExtension(Extension):
    """Caches responses for a while, in the store that all processes share or in this process."""

    name = "cache"
    requires = ("recorder", "store")
    settings = (CacheSettings,)

    def configure(self, app: ApplicationBuilder) -> None:
        app.route_rules.append(check_routes)

    def assemble(self, kernel: Kernel) -> None:
        settings = kernel.settings
        placements = [context.database.placement for context in kernel.contexts.values()]
        has_replica = any(one.read_url != one.url for one in placements)
        lag_seconds = settings.group(CacheSettings).read_lag_seconds if has_replica else 0
        store, version = kernel.get(SharedStore), settings.application.version
        kernel.builder.provide(ResponseCache(settings.group(StoreSettings), store, version, lag_seconds))

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncIterator[None]:
        async with kernel.get(ResponseCache).running():
            yield
