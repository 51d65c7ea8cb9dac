"""Histories of migrations compared with models: written migrations, differences, and renamed modules."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine

from kernel.database.errors import MigrationError
from kernel.database.migrations import History
from kernel.ext.autogenerate.comparison import differences, write
from kernel.runtime import Kernel
from kernel.testing import query, settings_for
from tests.core.pgbouncer import pgbouncer
from tests.core.project import MIGRATION, MODELS, imported_alone, write_migration, write_project


@pytest.fixture
def histories(root: Path, empty_url: str) -> dict[str, History]:
    kernel = Kernel(settings_for(root, {"DATABASE_URL": empty_url}))
    return {history.module: history for history in kernel.histories()}


async def test_the_migrations_of_every_module_create_the_tables_of_its_models(histories: dict[str, History]) -> None:
    for history in histories.values():
        await history.upgrade()
        assert await differences(history) == []


async def test_a_table_that_differs_from_its_model_is_drift(histories: dict[str, History]) -> None:
    health = histories["health"]
    await health.upgrade()
    engine = create_async_engine(health.placement.url)
    async with engine.begin() as connection:
        prefix = f"{health.placement.schema}." if health.placement.schema else ""
        await connection.execute(text(f"ALTER TABLE {prefix}incidents ADD COLUMN stray INTEGER"))
    await engine.dispose()
    [change] = await differences(health)
    assert "stray" in change


async def test_a_written_migration_turns_the_tables_into_the_models(tmp_path: Path, empty_url: str) -> None:
    with imported_alone():
        root = write_project(tmp_path, {"shop/models.py": MODELS})
        [history] = Kernel(settings_for(root, {"DATABASE_URL": empty_url})).histories()
        assert (await write(history, "first tables")).name == "0001_first_tables.py"
        await history.upgrade()
        assert await differences(history) == []
        with pytest.raises(MigrationError, match="nothing to migrate"):
            await write(history, "again")


async def test_a_renamed_module_does_not_begin_with_empty_tables(tmp_path: Path, empty_url: str) -> None:
    with imported_alone():
        root = write_project(write_migration(tmp_path, "shop"), {"shop/models.py": MODELS})
        [old] = Kernel(settings_for(root, {"DATABASE_URL": empty_url})).histories()
        await old.upgrade()
    for folder in ("modules", "migrations"):
        (root / folder / "shop").rename(root / folder / "depot")
    with imported_alone():
        [new] = Kernel(settings_for(root, {"DATABASE_URL": empty_url})).histories()
        rename = 'ALTER SCHEMA "shop" RENAME TO "depot"' if new.placement.schema else r"rename the file shop\.db"
        with pytest.raises(MigrationError, match=f"If depot was called shop, .*{rename}"):
            await new.upgrade()
        if new.placement.schema:
            query(new.placement.url, 'DROP SCHEMA IF EXISTS "depot"; ALTER SCHEMA "shop" RENAME TO "depot"')
        else:
            os.rename(str(old.placement.url.database), str(new.placement.url.database))  # noqa: PTH104
        await new.upgrade()
        assert await new.pending() == []


async def test_a_module_that_only_resembles_a_removed_one_can_be_migrated(tmp_path: Path, empty_url: str) -> None:
    with imported_alone():
        root = write_project(write_migration(tmp_path, "shop"), {"shop/models.py": MODELS})
        await next(iter(Kernel(settings_for(root, {"DATABASE_URL": empty_url})).histories())).upgrade()
    for folder in ("modules", "migrations"):
        (root / folder / "shop").rename(root / folder / "depot")
    with imported_alone():
        [new] = Kernel(settings_for(root, {"DATABASE_URL": empty_url})).histories()
        await new.stamp("base")
        await new.upgrade()
        assert await new.pending() == []


async def test_a_new_migration_gets_a_free_number(tmp_path: Path, empty_url: str) -> None:
    """After a squash there are fewer files than numbers."""
    with imported_alone():
        root = write_project(write_migration(tmp_path, "shop"), {"shop/models.py": MODELS})
        [history] = Kernel(settings_for(root, {"DATABASE_URL": empty_url})).histories()
        squashed = (history.folder / "0001_first.py").rename(history.folder / "0007_squashed.py")
        squashed.write_text(MIGRATION.replace('"0001"', '"0007"').replace('"name", sa.String', '"title", sa.String'))
        await history.upgrade()
        assert (await write(history, "name")).name == "0008_name.py"


async def test_two_files_with_one_number_are_refused(tmp_path: Path, empty_url: str) -> None:
    with imported_alone():
        root = write_project(write_migration(tmp_path, "shop"), {"shop/models.py": MODELS})
        [history] = Kernel(settings_for(root, {"DATABASE_URL": empty_url})).histories()
        (history.folder / "0001_other.py").write_text(MIGRATION)
        with pytest.raises(MigrationError, match="are both revision 0001"):
            await write(history, "more")


async def test_models_and_tables_are_compared_at_the_direct_url_behind_a_pooler(
    root: Path, new_database: Callable[[str], URL], tmp_path: Path
) -> None:
    database = new_database("bounced")
    with pgbouncer(database, tmp_path) as pooler:
        settings = settings_for(root, {"DATABASE_URL": pooler.url})
        with pytest.raises(MigrationError, match=r"pooler in transaction mode.*set DATABASE_DIRECT_URL"):
            await differences(next(iter(Kernel(settings).histories())))
        settings = settings_for(root, {"DATABASE_URL": pooler.url, "DATABASE_DIRECT_URL": str(database)})
        for history in Kernel(settings).histories():
            await history.upgrade()
            assert await differences(history) == []
    assert query(database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == "0"


async def test_models_and_tables_are_compared_through_a_pooler_of_sessions(
    root: Path, new_database: Callable[[str], URL], tmp_path: Path
) -> None:
    database = new_database("bounced")
    with pgbouncer(database, tmp_path, pool_mode="session", server_reset_query="DISCARD ALL") as pooler:
        for history in Kernel(settings_for(root, {"DATABASE_URL": pooler.url})).histories():
            await history.upgrade()
            assert await differences(history) == []
    assert query(database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == "0"
