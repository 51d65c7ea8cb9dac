"""The extension `roles`."""

from kernel.database import AsyncDBPool
from kernel.ext.roles.roles import PostgresqlRoles
from kernel.extension import ApplicationBuilder, Extension


class Roles(Extension):
    """Two PostgreSQL roles for each module: one owns its tables, the other serves."""

    name = "roles"
    requires = ("pool",)
    fixtures = "kernel.ext.roles.testing"

    def configure(self, app: ApplicationBuilder) -> None:
        if app.settings.database.role_per_module:
            install(app.pool)


def install(pool: AsyncDBPool) -> None:
    """Give each module roles of its own in `pool`. Call it before any engine is made."""
    pool.roles = PostgresqlRoles(pool)
