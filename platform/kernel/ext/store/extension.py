"""The extension `store`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kernel.ext.store.settings import StoreSettings
from kernel.ext.store.store import SharedStore
from kernel.extension import ApplicationBuilder, Extension
from kernel.runtime import Kernel


class Store(Extension):
    """A Redis that all processes share, for rate limits and cached responses."""

    name = "store"
    settings = (StoreSettings,)

    def configure(self, app: ApplicationBuilder) -> None:
        store = SharedStore(app.settings.group(StoreSettings))
        app.provide(store)
        if store.is_configured:
            app.middleware.append(store.middleware)

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await kernel.get(SharedStore).close()
