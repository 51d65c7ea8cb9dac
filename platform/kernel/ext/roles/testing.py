"""Let applications under test serve on PostgreSQL as a deployment does."""

import pytest

from kernel.testing.postgresql import SERVING, DatabaseAccess


@pytest.fixture(scope="session")
def database_access() -> DatabaseAccess:
    """Each module has a role with rights on its own rows only, by a login that owns nothing.

    A module that reads or writes the tables of another, or changes its own, fails in its tests.
    """
    return DatabaseAccess(SERVING, {"DATABASE_ROLE_PER_MODULE": "true"})
