"""`has_words` finds rows by their words, on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from kernel.database import AsyncDBPool, Database
from kernel.ext.search import has_words, search_vector
from kernel.ext.search.words import add_function
from kernel.settings import DatabaseConfig

TEXTS = {
    1: "AC/DC live",
    2: "Learn Node.js in a run of 10.5 km",
    3: "Cafe\u0301 concert",
    4: "Концерт в Москве",
}


@pytest.fixture
async def database(empty_url: str) -> AsyncIterator[Database]:
    """A database with the table `texts`; its search has an index on PostgreSQL."""
    metadata = sa.MetaData()
    texts = sa.Table("texts", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.Text))
    pool = AsyncDBPool(DatabaseConfig(url=empty_url))
    pool.on_engine.append(add_function)
    database = pool.database()
    async with database.writer.begin() as connection:
        await connection.run_sync(metadata.create_all)
        if database.placement.url.get_backend_name() == "postgresql":
            await connection.exec_driver_sql(f"CREATE INDEX ix ON texts USING gin ({search_vector('text')})")
        await connection.execute(texts.insert(), [{"id": id_, "text": text} for id_, text in TEXTS.items()])
    yield database
    await pool.close()


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("ac/dc", [1]),
        ("Node.js, 10.5", [2]),
        ("caf\u00e9", [3]),
        ("КОНЦЕРТ", [4]),
        ("live concert", []),
        ("' OR '1'='1", []),
    ],
)
async def test_a_query_finds_the_rows_that_have_all_of_its_words(
    database: Database, query: str, found: list[int]
) -> None:
    condition = has_words("text", query)
    assert condition is not None
    statement = sa.select(sa.column("id")).select_from(sa.table("texts")).where(condition)
    async with database.read() as session:
        assert list(await session.scalars(statement)) == found


def test_a_query_without_words_is_no_condition() -> None:
    assert has_words("text", " !?* ") is None
