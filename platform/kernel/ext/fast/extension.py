"""The extension `fast`."""

from typing import Any

from kernel.database import AsyncDBPool
from kernel.ext.fast.access_log import access_log_for
from kernel.ext.fast.endpoint import compile_endpoint
from kernel.ext.fast.session import FastDatabase
from kernel.ext.fast.settings import FastSettings
from kernel.ext.fast.validation import bound_errors
from kernel.extension import ApplicationBuilder, Extension
from kernel.web.dispatch import CompiledEndpoint


class Fast(Extension):
    """Statements on the driver, compiled endpoints and a plain access log: the same responses in less time."""

    name = "fast"
    requires = ("pool",)
    settings = (FastSettings,)

    def configure(self, app: ApplicationBuilder) -> None:
        settings = app.settings.group(FastSettings)
        if settings.direct_statements:
            install(app.pool)
        app.access_log = access_log_for(app.settings.log)

        def prepare(route: Any) -> CompiledEndpoint | None:
            bound_errors(route)
            return compile_endpoint(route) if settings.compiled_endpoints else None

        app.compile_endpoint = prepare


def install(pool: AsyncDBPool) -> None:
    """Run statements of `pool` on the driver where possible. Call it before any engine exists."""
    pool.database_class = FastDatabase
