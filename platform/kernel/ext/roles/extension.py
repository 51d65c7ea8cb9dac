"""The extension `roles`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kernel.database import AsyncDBPool
from kernel.ext.roles.roles import PostgresqlRoles
from kernel.ext.roles.settings import RoleSettings
from kernel.extension import ApplicationBuilder, Extension
from kernel.runtime import Kernel


class Roles(Extension):
    """Two PostgreSQL roles for each module: one owns its tables, the other serves."""

    name = "roles"
    requires = ("pool",)
    settings = (RoleSettings,)
    fixtures = "kernel.ext.roles.testing"

    def configure(self, app: ApplicationBuilder) -> None:
        settings = app.settings.group(RoleSettings)
        if settings.role_per_module:
            app.provide(install(app.pool, settings.role_prefix))

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncIterator[None]:
        """Make the roles where the application migrates by itself; elsewhere verify that it can serve under them."""
        if (roles := kernel.find(PostgresqlRoles)) is not None:
            await (roles.prepare() if kernel.settings.application.migrates_at_start else roles.verify())
        yield


def install(pool: AsyncDBPool, prefix: str | None = None) -> PostgresqlRoles:
    """Give each module roles of its own in `pool`. Call it before any engine is made."""
    roles = PostgresqlRoles(pool, prefix)
    pool.roles = roles.of_module
    return roles
