"""Migrations run under the owner role of their module, and cannot use another module's tables."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from kernel.application import Kernel, create_app
from kernel.database.errors import MigrationError
from kernel.ext.roles.roles import PostgresqlRoles
from kernel.testing import query, settings_for
from kernel.testing.postgresql import MIGRATING, SERVING
from tests.core.project import MODELS, imported_alone, write_migration, write_project

TWO_MODULES = {"shop/models.py": MODELS, "till/models.py": MODELS}


@pytest.mark.parametrize(
    "statement",
    ["DROP TABLE till.things", "ALTER TABLE till.things ADD COLUMN x int", "RESET ROLE; DELETE FROM till.things"],
)
async def test_a_migration_cannot_use_tables_of_another_module_by_any_name(
    tmp_path: Path, new_database: Callable[[str], URL], statement: str
) -> None:
    """Even if the text of the migrations does not name the table, and the login may migrate every module."""
    url = new_database("reaching")
    query(url, f"ALTER DATABASE {url.database} OWNER TO {MIGRATING}")
    reaching = """
from pathlib import Path
from alembic import op
revision, down_revision, branch_labels, depends_on = "0002", "0001", None, None

def upgrade() -> None:
    for statement in Path(__file__).with_name("reach.sql").read_text().split(";"):
        op.execute(statement)
"""
    variables = {"DATABASE_URL": str(url.set(username=MIGRATING)), "DATABASE_ROLE_PER_MODULE": "true"}
    with imported_alone():
        root = write_project(tmp_path, TWO_MODULES)
        for module in ("shop", "till"):
            write_migration(tmp_path, module)
        kernel = Kernel(settings_for(root, variables))
        await kernel.get(PostgresqlRoles).prepare([SERVING])
        shop, till = kernel.histories()
        for history in (shop, till):
            await history.upgrade()
        query(url, "INSERT INTO till.things VALUES (1, 'kept')")
        (shop.folder / "0002_reach.py").write_text(reaching)
        (shop.folder / "reach.sql").write_text(statement)
        with pytest.raises(MigrationError, match="permission denied for schema till"):
            await shop.upgrade()
        assert await shop.pending() == ["0002"]
    assert query(url, "SELECT name FROM till.things") == "kept"
    assert query(url, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'shop'") == (
        f"{url.database}.shop_owner"
    )


async def test_a_module_without_its_roles_is_not_migrated(root: Path, new_database: Callable[[str], URL]) -> None:
    variables = {"DATABASE_URL": str(new_database("roleless")), "DATABASE_ROLE_PER_MODULE": "true"}
    history = next(iter(Kernel(settings_for(root, variables)).histories()))
    with pytest.raises(MigrationError, match=r"_owner.*does not exist.*kernel roles --apply"):
        await history.upgrade()


async def test_a_serving_login_reports_a_missing_migration(root: Path, new_database: Callable[[str], URL]) -> None:
    url = new_database("behind")
    query(url, f"ALTER DATABASE {url.database} OWNER TO {MIGRATING}")
    variables = {"DATABASE_ROLE_PER_MODULE": "true", "ENVIRONMENT": "dev", "AUTH_ENABLED": "false"}
    kernel = Kernel(settings_for(root, {**variables, "DATABASE_URL": str(url.set(username=MIGRATING))}))
    await kernel.get(PostgresqlRoles).prepare([SERVING])
    app = create_app(settings_for(root, {**variables, "DATABASE_URL": str(url.set(username=SERVING))}))
    with pytest.raises(MigrationError, match="run `kernel migrate` before the start"):
        async with app.router.lifespan_context(app):
            pass
    for history in kernel.histories():
        await history.upgrade()
    app = create_app(app.kernel.settings)
    async with app.router.lifespan_context(app):
        assert app.kernel.is_started
