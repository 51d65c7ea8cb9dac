"""One history per module: many processes at once, downgrades, and databases that are not at head."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine

from kernel.application import create_app
from kernel.database.errors import MigrationError
from kernel.database.migrations import History
from kernel.runtime import Kernel
from kernel.testing import query, settings_for
from tests.core.project import MIGRATION, MODELS, imported_alone, write_migration, write_project

# The migration after project.MIGRATION.
SECOND = """
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "0002", "0001", None, None

def upgrade() -> None:
    op.add_column("things", sa.Column("colour", sa.String))
"""


@pytest.fixture
def histories(root: Path, empty_url: str) -> dict[str, History]:
    kernel = Kernel(settings_for(root, {"DATABASE_URL": empty_url}))
    return {history.module: history for history in kernel.histories()}


def written(history: History) -> list[str]:
    """Return the numbers of a module's migrations, in their order."""
    return sorted(path.name[:4] for path in history.folder.glob("[0-9]*.py"))


async def test_every_module_with_tables_has_a_history(root: Path, histories: dict[str, History]) -> None:
    assert set(histories) == {folder.parent.name for folder in (root / "modules").glob("*/models.py")}


async def test_after_an_upgrade_nothing_is_pending(histories: dict[str, History]) -> None:
    for history in histories.values():
        assert await history.pending() == written(history)
        await history.upgrade()
        assert await history.pending() == []


async def test_a_downgrade_drops_everything_and_an_upgrade_restores_it(histories: dict[str, History]) -> None:
    history = next(iter(histories.values()))
    await history.upgrade()
    await history.downgrade("base")
    assert await history.pending() == written(history)
    await history.upgrade()
    assert await history.pending() == []


async def test_each_modules_version_table_is_beside_its_tables(histories: dict[str, History], empty_url: str) -> None:
    for history in histories.values():
        await history.upgrade()
    for history in histories.values():
        engine = create_async_engine(history.placement.url)
        async with engine.connect() as connection:
            prefix = f"{history.placement.schema}." if history.placement.schema else ""
            version = await connection.scalar(text(f"SELECT version_num FROM {prefix}alembic_version"))
            assert version == written(history)[-1]
        await engine.dispose()


@pytest.mark.slow
def test_eight_processes_may_migrate_at_once(root: Path, empty_url: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "ENV"))}
    environment |= {"DATABASE_URL": empty_url}
    command = [Path(sys.executable).parent / "kernel", "migrate"]
    running = [
        subprocess.Popen(
            command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(8)
    ]
    outputs = [process.communicate(timeout=90)[0] for process in running]
    assert [process.returncode for process in running] == [0] * 8, "\n".join(outputs)
    kernel = Kernel(settings_for(root, {"DATABASE_URL": empty_url}))
    for history in kernel.histories():
        assert asyncio.run(history.pending()) == []


async def test_a_migration_that_waits_too_long_reports_it(root: Path, empty_url: str) -> None:
    patient = settings_for(root, {"DATABASE_URL": empty_url})
    impatient = settings_for(root, {"DATABASE_URL": empty_url, "DATABASE_MIGRATION_WAIT_SECONDS": "0.3"})
    first, second = (next(iter(Kernel(settings).histories())) for settings in (patient, impatient))
    async with first.alone():  # The lock that another process would hold.
        with pytest.raises(MigrationError, match=r"more than 0\.3 s"):
            await second.upgrade()


async def test_an_application_outside_local_refuses_to_start_before_its_migrations(root: Path, empty_url: str) -> None:
    app = create_app(settings_for(root, {"ENVIRONMENT": "dev", "AUTH_ENABLED": "false", "DATABASE_URL": empty_url}))
    with pytest.raises(MigrationError, match="run `kernel migrate` before the start"):
        async with app.router.lifespan_context(app):
            pass


async def test_a_database_that_is_one_migration_behind_is_reported_and_migrated(tmp_path: Path, empty_url: str) -> None:
    outside = {"ENVIRONMENT": "dev", "AUTH_ENABLED": "false", "DATABASE_URL": empty_url}
    with imported_alone():
        root = write_project(write_migration(tmp_path, "shop"), {"shop/models.py": MODELS})
        app = create_app(settings_for(root, outside))
        [history] = app.kernel.histories()
        await history.upgrade()
        (history.folder / "0002_colour.py").write_text(SECOND)
        assert await history.pending() == ["0002"]
        with pytest.raises(
            MigrationError, match=r"shop lack 1 migration\(s\), the first being 0002: run `kernel migrate`"
        ):
            async with app.router.lifespan_context(app):
                pass
        await history.upgrade()
        assert await history.pending() == []
        app = create_app(app.kernel.settings)
        async with app.router.lifespan_context(app):
            assert app.kernel.is_started


async def test_an_application_in_local_migrates_by_itself(root: Path, empty_url: str, tmp_path: Path) -> None:
    app = create_app(settings_for(root, {"DATABASE_URL": empty_url, "IMAGES_STORAGE_URL": str(tmp_path / "images")}))
    async with app.router.lifespan_context(app):
        for history in app.kernel.histories():
            assert await history.pending() == []


async def test_a_database_that_is_ahead_of_the_code_lets_the_old_code_start(histories: dict[str, History]) -> None:
    history = next(iter(histories.values()))
    await history.upgrade()
    engine = create_async_engine(history.placement.url)
    async with engine.begin() as connection:
        prefix = f"{history.placement.schema}." if history.placement.schema else ""
        await connection.execute(text(f"UPDATE {prefix}alembic_version SET version_num = '9999'"))
    await engine.dispose()
    assert await history.pending() == []


async def test_a_migration_that_fails_half_way_changes_nothing(tmp_path: Path, empty_url: str) -> None:
    failing = """
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "0001", None, None, None

def upgrade() -> None:
    op.create_table("things", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("INSERT INTO nowhere VALUES (1)")
"""
    (tmp_path / "migrations" / "shop").mkdir(parents=True)
    (tmp_path / "migrations" / "shop" / "0001_first.py").write_text(failing)
    with imported_alone():
        root = write_project(tmp_path, {"shop/models.py": MODELS})
        [history] = Kernel(settings_for(root, {"DATABASE_URL": empty_url})).histories()
        with pytest.raises(Exception, match="nowhere"):
            await history.upgrade()
        assert await history.pending() == ["0001"]
        engine = create_async_engine(history.placement.url)
        async with engine.connect() as connection:
            tables = await connection.run_sync(lambda sync: inspect(sync).get_table_names(history.placement.schema))
        await engine.dispose()
        assert "things" not in tables


async def test_tables_without_a_history_are_reported_with_the_remedy(tmp_path: Path) -> None:
    with imported_alone():
        root = write_project(tmp_path, {"shop/models.py": MODELS})
        [history] = Kernel(settings_for(root, {"DATABASE_URL": f"sqlite:///{tmp_path / 'data'}"})).histories()
        with pytest.raises(MigrationError, match="kernel migration shop"):
            await history.upgrade()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"database": "absent"}, 'database "absent" does not exist'),
        ({"username": "absent"}, 'role "absent" does not exist'),
        ({"host": "127.0.0.1", "port": 1, "query": {}}, r"Connect call failed \('127.0.0.1', 1\)"),
        ({"host": "absent.invalid", "query": {}}, "absent.invalid:5432/"),
    ],
)
async def test_an_unreachable_database_is_reported_with_the_drivers_reason(
    root: Path, postgresql: URL, change: dict[str, Any], reason: str
) -> None:
    url = postgresql.set(**change).render_as_string(hide_password=False)
    history = next(iter(Kernel(settings_for(root, {"DATABASE_URL": url})).histories()))
    for action in (history.upgrade(), history.pending()):
        with pytest.raises(MigrationError, match=f"cannot be reached: .*{reason}|{reason}.* cannot be reached: "):
            await action


async def test_a_missing_right_to_create_the_schema_is_reported(root: Path, new_database: Callable[[str], URL]) -> None:
    url = new_database("unentitled")
    user = f"{url.database}_user"
    query(url, f"CREATE ROLE {user} LOGIN")
    history = next(iter(Kernel(settings_for(root, {"DATABASE_URL": str(url.set(username=user))})).histories()))
    with pytest.raises(MigrationError, match=r"permission denied for database .*CREATE SCHEMA"):
        await history.upgrade()
    query(url, f"CREATE SCHEMA {history.module}")
    with pytest.raises(MigrationError, match=f"in no schema instead of {history.module}: {user} needs USAGE"):
        await history.upgrade()
    query(url, f"GRANT USAGE ON SCHEMA {history.module} TO {user}")
    with pytest.raises(MigrationError, match=f"permission denied for schema {history.module}"):
        await history.upgrade()
    query(url, f"GRANT ALL ON SCHEMA {history.module} TO {user}")
    await history.upgrade()  # CREATE on the database is no longer needed.
    query(url, f"DROP OWNED BY {user} CASCADE; DROP ROLE {user}")


async def test_a_migration_that_fails_is_named_with_its_line_and_the_databases_reason(
    tmp_path: Path, empty_url: str
) -> None:
    failing = MIGRATION.replace("def downgrade", '    op.execute("INSERT INTO nowhere VALUES (1)")\n\ndef downgrade')
    line = 1 + failing[: failing.index("nowhere")].count("\n")
    with imported_alone():
        root = write_project(write_migration(tmp_path, "shop"), {"shop/models.py": MODELS})
        (root / "migrations" / "shop" / "0001_first.py").write_text(failing)
        [history] = Kernel(settings_for(root, {"DATABASE_URL": empty_url})).histories()
        with pytest.raises(MigrationError, match=rf"^migrations/shop/0001_first\.py:{line}: .*nowhere"):
            await history.upgrade()


CONCURRENTLY = """
from alembic import op
revision, down_revision, branch_labels, depends_on = "0002", "0001", None, None

def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY by_name ON things (name)")
"""


async def test_an_index_is_created_concurrently_while_others_wait_for_the_lock(
    tmp_path: Path, new_database: Callable[[str], URL]
) -> None:
    url = str(new_database("concurrently"))
    with imported_alone():
        root = write_project(write_migration(tmp_path, "shop"), {"shop/models.py": MODELS})
        (root / "migrations" / "shop" / "0002_index.py").write_text(CONCURRENTLY)
        [history] = Kernel(settings_for(root, {"DATABASE_URL": url})).histories()
        await asyncio.wait_for(asyncio.gather(*(history.upgrade() for _ in range(4))), 30)
        assert await history.pending() == []


async def test_existing_tables_are_adopted_by_a_stamp(tmp_path: Path, empty_url: str) -> None:
    with imported_alone():
        root = write_project(write_migration(tmp_path, "shop"), {"shop/models.py": MODELS})
        [history] = Kernel(settings_for(root, {"DATABASE_URL": empty_url})).histories()
        await history.upgrade()
        engine = create_async_engine(history.placement.url)
        async with engine.begin() as connection:
            prefix = f"{history.placement.schema}." if history.placement.schema else ""
            await connection.execute(text(f"DROP TABLE {prefix}alembic_version"))
        await engine.dispose()
        with pytest.raises(MigrationError, match=r"things.*already exists.*kernel migrate shop --stamp REVISION"):
            await history.upgrade()
        await history.stamp("0001")
        await history.upgrade()
        assert await history.pending() == []


async def test_two_files_of_one_number_are_refused_and_never_at_head(tmp_path: Path, empty_url: str) -> None:
    dev = {"DATABASE_URL": empty_url, "ENVIRONMENT": "dev", "AUTH_ENABLED": "false"}
    with imported_alone():
        root = write_project(write_migration(tmp_path, "shop"), {"shop/models.py": MODELS})
        app = create_app(settings_for(root, dev))
        [history] = app.kernel.histories()
        (history.folder / "0002_colour.py").write_text(SECOND)
        await history.upgrade()
        (history.folder / "0002_size.py").write_text(SECOND.replace("colour", "size"))
        both = r"migrations/shop/0002_colour\.py and migrations/shop/0002_size\.py are both revision 0002"
        for action in (history.upgrade(), history.pending(), history.downgrade("base")):
            with pytest.raises(MigrationError, match=both):
                await action
        with pytest.raises(MigrationError, match=both):
            async with app.router.lifespan_context(app):
                pass
