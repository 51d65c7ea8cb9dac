"""One history per module: many processes at once, drift, downgrade, and databases that are not at head."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from kernel.app import Kernel, create_app
from kernel.database.errors import MigrationError
from kernel.database.migrations import History
from kernel.testing import settings_for
from tests.kernel.project import MODELS, imported_alone, write_migration, write_project

# Comes after project.MIGRATION.
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
    """The numbers of a module's migrations, in their order."""
    return sorted(path.name[:4] for path in history.folder.glob("[0-9]*.py"))


async def test_every_module_with_tables_has_a_history(root: Path, histories: dict[str, History]) -> None:
    assert set(histories) == {folder.parent.name for folder in (root / "modules").glob("*/models.py")}


async def test_after_an_upgrade_nothing_is_pending_and_the_tables_are_as_the_models_say(
    histories: dict[str, History],
) -> None:
    for history in histories.values():
        assert await history.pending() == written(history)
        await history.upgrade()
        assert await history.pending() == []
        assert await history.drift() == []


async def test_a_downgrade_leaves_nothing_and_an_upgrade_brings_it_back(histories: dict[str, History]) -> None:
    health = histories["health"]
    await health.upgrade()
    await health.downgrade("base")
    assert await health.pending() == ["0001"]
    await health.upgrade()
    assert await health.drift() == []


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


async def test_a_table_that_differs_from_its_model_is_drift(histories: dict[str, History]) -> None:
    health = histories["health"]
    await health.upgrade()
    engine = create_async_engine(health.placement.url)
    async with engine.begin() as connection:
        prefix = f"{health.placement.schema}." if health.placement.schema else ""
        await connection.execute(text(f"ALTER TABLE {prefix}incidents ADD COLUMN stray INTEGER"))
    await engine.dispose()
    [change] = await health.drift()
    assert "stray" in change


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


async def test_one_that_cannot_wait_longer_says_so(root: Path, empty_url: str) -> None:
    patient = settings_for(root, {"DATABASE_URL": empty_url})
    impatient = settings_for(root, {"DATABASE_URL": empty_url, "DATABASE_MIGRATION_WAIT_SECONDS": "0.3"})
    first, second = (next(iter(Kernel(settings).histories())) for settings in (patient, impatient))
    async with first._alone():  # what another process would hold
        with pytest.raises(MigrationError, match=r"more than 0\.3 s"):
            await second.upgrade()


async def test_an_application_outside_local_refuses_to_start_before_its_migrations(root: Path, empty_url: str) -> None:
    app = create_app(settings_for(root, {"ENVIRONMENT": "dev", "AUTH_ENABLED": "false", "DATABASE_URL": empty_url}))
    with pytest.raises(MigrationError, match="run `kernel migrate` before the start"):
        async with app.router.lifespan_context(app):
            pass


async def test_a_database_that_is_one_migration_behind_is_told_so_and_catches_up(
    tmp_path: Path, empty_url: str
) -> None:
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
        async with app.router.lifespan_context(app):
            assert app.kernel.is_started


async def test_an_application_in_local_migrates_by_itself(root: Path, empty_url: str, tmp_path: Path) -> None:
    app = create_app(settings_for(root, {"DATABASE_URL": empty_url, "IMAGES_STORAGE_URL": str(tmp_path / "images")}))
    async with app.router.lifespan_context(app):
        for history in app.kernel.histories():
            assert await history.pending() == []


async def test_a_database_that_is_ahead_of_the_code_lets_the_old_code_start(histories: dict[str, History]) -> None:
    health = histories["health"]
    await health.upgrade()
    engine = create_async_engine(health.placement.url)
    async with engine.begin() as connection:
        prefix = f"{health.placement.schema}." if health.placement.schema else ""
        await connection.execute(text(f"UPDATE {prefix}alembic_version SET version_num = '0002'"))
    await engine.dispose()
    assert await health.pending() == []


async def test_a_migration_that_fails_half_way_leaves_nothing_behind(tmp_path: Path, empty_url: str) -> None:
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
        assert not any("remove_table" in change for change in await history.drift())


async def test_tables_without_a_history_say_how_to_begin_one(tmp_path: Path) -> None:
    with imported_alone():
        root = write_project(tmp_path, {"shop/models.py": MODELS})
        [history] = Kernel(settings_for(root, {"DATABASE_URL": f"sqlite:///{tmp_path / 'data'}"})).histories()
        with pytest.raises(MigrationError, match="kernel migration shop"):
            await history.upgrade()


async def test_a_written_migration_turns_the_tables_into_the_models(tmp_path: Path, empty_url: str) -> None:
    with imported_alone():
        root = write_project(tmp_path, {"shop/models.py": MODELS})
        [history] = Kernel(settings_for(root, {"DATABASE_URL": empty_url})).histories()
        assert (await history.write("first tables")).name == "0001_first_tables.py"
        await history.upgrade()
        assert await history.drift() == []
        with pytest.raises(MigrationError, match="nothing to migrate"):
            await history.write("again")


async def test_a_database_that_cannot_be_reached_is_said_to_be(root: Path) -> None:
    url = "postgresql://u:p@127.0.0.1:1/d"
    history = next(iter(Kernel(settings_for(root, {"DATABASE_URL": url})).histories()))
    with pytest.raises(MigrationError, match="cannot be reached"):
        await history.upgrade()
