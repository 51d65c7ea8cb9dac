"""`any_of` finds the same rows as `in_`, with one parameter, for columns of every type that a key may have."""

import datetime as dt
import enum
import uuid
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.database import BaseRepository, Database, UtcDateTime, new_metadata
from kernel.ext.membership import any_of, get_many
from tests.core.databases import NewTables


class Colour(enum.Enum):
    RED = "r"
    GREEN = "g"


class Reversed(sa.TypeDecorator[str]):
    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return value and value[::-1]

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return value and value[::-1]


class Token(sa.TypeDecorator[str]):
    impl = sa.LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> bytes | None:
        return None if value is None else value.encode()

    def process_result_value(self, value: bytes | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else value.decode()


class Doubled(sa.TypeDecorator[int]):
    impl = sa.Integer
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else value * 2

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else value // 2


_NOON = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)
# For each column its type, a value that is stored, and one that is not.
COLUMNS: dict[str, tuple[Any, Any, Any]] = {
    "whole": (sa.Integer, 7, 8),
    "big": (sa.BigInteger, 2**62, 2**62 + 1),
    "short": (sa.String(3), "abc", "abcd"),
    "long": (sa.Text, 'a "quoted" \\ line\n', "é"),
    "yes": (sa.Boolean, True, False),
    "bytes": (sa.LargeBinary, b"\x00\xff", b"\x00"),
    "day": (sa.Date, dt.date(2030, 1, 1), dt.date(2030, 1, 2)),
    "moment": (UtcDateTime, _NOON, _NOON + dt.timedelta(microseconds=1)),
    "unique_id": (sa.Uuid, uuid.UUID(int=1), uuid.UUID(int=2)),
    "colour": (sa.Enum(Colour, native_enum=False), Colour.RED, Colour.GREEN),
    "native": (sa.Enum(Colour, name="colour_type"), Colour.RED, Colour.GREEN),
    "small": (sa.SmallInteger, 7, 8),
    "doubled": (Doubled, 7, 14),
    "token": (Token, "abc", "abd"),
    "exact": (sa.Numeric(12, 3), Decimal("1.250"), Decimal("1.251")),
    "decorated": (Reversed(30), "abc", "cba"),
}
_table = sa.Table("values", new_metadata(), *(sa.Column(name, kind) for name, (kind, _, _) in COLUMNS.items()))


@pytest.fixture
async def database(new_tables: NewTables) -> Database:
    database = await new_tables(_table.metadata)
    async with database.writer.begin() as connection:
        await connection.execute(sa.insert(_table).values({name: stored for name, (_, stored, _) in COLUMNS.items()}))
    return database


@pytest.mark.parametrize("name", COLUMNS)
async def test_a_row_is_found_only_by_a_list_that_contains_its_value(database: Database, name: str) -> None:
    _, stored, other = COLUMNS[name]
    column = _table.c[name]
    async with database.read() as session:
        for values, expected in (([other, stored], 1), ([other], 0), ([], 0)):
            statement = sa.select(sa.func.count()).select_from(_table).where(any_of(column, values))
            assert (await session.rows(statement))[0][0] == expected
            assert await session.scalar(statement) == expected


async def test_a_list_has_one_parameter_and_one_cached_statement(database: Database) -> None:
    dialect = database.writer.dialect
    short, long = (sa.select(_table.c.whole).where(any_of(_table.c.whole, values)) for values in ([1], range(50_000)))
    assert len(short.compile(dialect=dialect).params) == 1
    assert short._generate_cache_key() == long._generate_cache_key()
    other_type = sa.select(_table.c.whole).where(any_of(_table.c.short, ["a"]))
    assert other_type._generate_cache_key() != short._generate_cache_key()


class Base(DeclarativeBase):
    metadata = new_metadata()


class Tag(Base):
    __tablename__ = "tags"

    id: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str]


class TagOut(BaseModel):
    id: int
    label: str


@pytest.fixture
async def tagged(new_tables: NewTables) -> Database:
    """A database with two tags."""
    database = await new_tables(Base.metadata)
    async with database.transaction() as session:
        session.add_all([Tag(id=1, label="red"), Tag(id=3, label="blue")])
    return database


@pytest.mark.parametrize("uses_orm", [False, True])
async def test_forty_thousand_ids_are_one_statement(
    tagged: Database, seen_by_the_driver: list[str], *, uses_orm: bool
) -> None:
    async with tagged.read() as session:
        tags = BaseRepository[Tag, int](Tag, session)
        if uses_orm:
            assert [tag.id for tag in await get_many(tags, reversed(range(40_000)))] == [1, 3]
        else:
            assert [tag.id for tag in await get_many(tags, reversed(range(40_000)), into=TagOut)] == [1, 3]
    assert len(seen_by_the_driver) == 1


async def test_the_number_of_ids_does_not_change_the_statement(tagged: Database, seen_by_the_driver: list[str]) -> None:
    async with tagged.read() as session:
        for ids in ([], [1], range(9_000)):
            await get_many(BaseRepository[Tag, int](Tag, session), ids, into=TagOut)
    assert len(set(seen_by_the_driver)) == 1
