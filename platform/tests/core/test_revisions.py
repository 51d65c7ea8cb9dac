"""Whether a database is at its newest migration, as the start checks it."""

from pathlib import Path

import pytest

from kernel.database import DatabaseUnavailable
from kernel.database.revisions import is_at_head
from kernel.runtime import Kernel
from kernel.testing import settings_for
from tests.core.project import MODELS, imported_alone, write_migration, write_project

NEXT = """
revision = "0002"
down_revision = "0001"
branch_labels = depends_on = None

def upgrade() -> None:
    pass
"""


async def test_the_newest_revision_must_be_applied(tmp_path: Path, empty_url: str) -> None:
    with imported_alone():
        root = write_project(write_migration(tmp_path, "shop"), {"shop/models.py": MODELS})
        kernel = Kernel(settings_for(root, {"DATABASE_URL": empty_url}))
        database, folder = kernel.pool.database("shop"), root / "migrations" / "shop"
        assert not await is_at_head(database, folder), "no migration is applied yet"
        [history] = kernel.histories()
        await history.upgrade()
        assert await is_at_head(database, folder)
        (folder / "0002_next.py").write_text(NEXT)
        assert not await is_at_head(database, folder)
        await history.upgrade()
        assert await is_at_head(database, folder)
        # Alembic handles files that only Python can read, and a missing folder.
        (folder / "0002_next.py").write_text(NEXT.replace('"0002"', '"00" + "02"'))
        assert not await is_at_head(database, folder)
        assert not await is_at_head(database, tmp_path / "nowhere")
        await kernel.pool.close()


@pytest.mark.integration
async def test_an_unreachable_database_raises_an_error(tmp_path: Path) -> None:
    with imported_alone():
        root = write_project(write_migration(tmp_path, "shop"), {"shop/models.py": MODELS})
        kernel = Kernel(settings_for(root, {"DATABASE_URL": "postgresql://u:p@127.0.0.1:1/d"}))
        with pytest.raises(DatabaseUnavailable):
            await is_at_head(kernel.pool.database("shop"), root / "migrations" / "shop")
