"""The extension `fast`."""

from kernel.database import AsyncDBPool
from kernel.ext.fast.endpoint import compile_endpoint
from kernel.ext.fast.session import FastSessions
from kernel.extension import ApplicationBuilder, Extension


class Fast(Extension):
    """Statements on the driver itself and compiled endpoints: the same answers in less time."""

    name = "fast"
    requires = ("pool",)

    def configure(self, app: ApplicationBuilder) -> None:
        if app.settings.database.direct_statements:
            install(app.pool)
        if app.settings.application.compiled_endpoints:
            app.compile_endpoint = compile_endpoint


def install(pool: AsyncDBPool) -> None:
    """Run statements of `pool` on the driver where that is possible. Call it before any engine is made."""
    pool.sessions = FastSessions
