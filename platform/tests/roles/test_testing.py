"""The fixtures of roles replace those of the core."""

from kernel.testing.postgresql import SERVING, DatabaseAccess


def test_applications_under_test_serve_by_a_login_that_owns_nothing(database_access: DatabaseAccess) -> None:
    assert database_access[:2] == (SERVING, {"DATABASE_ROLE_PER_MODULE": "true"})
