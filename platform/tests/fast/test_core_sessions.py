"""The core's tests of the same name, with the bounded pool and the driver's sessions (conftest.py)."""

import sqlalchemy as sa

from kernel.database import Database
from tests.core.test_sessions import *  # noqa: F403
from tests.core.test_sessions import WordOut, Words, only_postgresql


@only_postgresql
async def test_the_first_statement_after_a_changed_table_works(words: Database) -> None:
    async def write(text: str) -> WordOut:
        async with words.transaction() as session:
            return await Words(session).create(into=WordOut, text=text)

    await write("before")
    async with words.writer.begin() as connection:
        await connection.execute(sa.text("ALTER TABLE words.words ALTER COLUMN id TYPE bigint"))
    assert (await write("after")).text == "after"
