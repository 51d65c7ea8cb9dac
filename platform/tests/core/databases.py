"""Databases with tables of a test's own."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from kernel.database import AsyncDBPool, Database
from kernel.settings import DatabaseConfig

NewTables = Callable[[sa.MetaData], Awaitable[Database]]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def module_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Provide a database for the tests of one file."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('module')}"
    new_database: Callable[[str], URL] = request.getfixturevalue("new_database")
    return new_database("module").render_as_string(hide_password=False)


@pytest.fixture
async def new_tables(module_url: str, extend: Callable[[AsyncDBPool], AsyncDBPool]) -> AsyncIterator[NewTables]:
    """Make a database with the tables of a metadata, which are empty."""
    pool = extend(AsyncDBPool(DatabaseConfig(url=module_url)))

    async def new(metadata: sa.MetaData) -> Database:
        database = pool.database("events")
        async with database.writer.begin() as connection:
            if database.placement.schema:
                await connection.execute(sa.text("CREATE SCHEMA IF NOT EXISTS events"))
            await connection.run_sync(metadata.drop_all)
            await connection.run_sync(metadata.create_all)
        return database

    yield new
    await pool.close()
