"""The extension `pool`."""

from kernel.ext.pool.install import install
from kernel.ext.pool.settings import PoolSettings
from kernel.extension import ApplicationBuilder, Extension


class Pool(Extension):
    """A fair queue for database connections, a watchdog for silent ones, and a share of the pool for each module."""

    name = "pool"
    settings = (PoolSettings,)

    def configure(self, app: ApplicationBuilder) -> None:
        app.gauges.append(install(app.pool, app.settings.group(PoolSettings)))
