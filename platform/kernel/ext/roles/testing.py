"""Let applications under test serve on PostgreSQL as a deployment does."""

import pytest

from kernel.ext.roles.roles import PostgresqlRoles
from kernel.runtime import Kernel
from kernel.testing.postgresql import SERVING, DatabaseAccess


@pytest.fixture(scope="session")
def database_access() -> DatabaseAccess:
    """Return access to the database by a login that owns nothing, with a role for each module.

    A module that reads or writes the tables of another, or changes its own tables, fails in its tests.
    """
    return DatabaseAccess(SERVING, {"DATABASE_ROLE_PER_MODULE": "true"}, _make_roles)


async def _make_roles(kernel: Kernel) -> None:
    await kernel.get(PostgresqlRoles).prepare([SERVING])
