"""Pages with a select() of the repository, with orders by joined tables, and with columns of any type."""

import asyncio
import base64
import datetime as dt
import enum
import json
import uuid
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column

from kernel.database import Database, UtcDateTime, new_metadata
from kernel.database.errors import violation_of
from kernel.ext.membership import get_many
from kernel.ext.paging import InvalidCursor, Page, PagedRepository, PageRequest, Sort
from tests.core.databases import NewTables


class Base(DeclarativeBase):
    metadata = new_metadata()


class Colour(enum.Enum):
    BLUE = "b"
    GREEN = "g"


class Celsius:
    """A value whose type is a class."""

    def __init__(self, degrees: int) -> None:
        self.degrees = degrees

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Celsius) and other.degrees == self.degrees

    def __hash__(self) -> int:
        return self.degrees


class Temperature(sa.TypeDecorator[Celsius]):
    impl = sa.Integer
    cache_ok = True

    def process_bind_param(self, value: Celsius | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else value.degrees

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> Celsius | None:
        return None if value is None else Celsius(value)


class Identifier(sa.TypeDecorator[uuid.UUID]):
    """A type that differs between databases, from SQLAlchemy's documentation."""

    impl = sa.CHAR(32)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        return dialect.type_descriptor(sa.Uuid() if dialect.name == "postgresql" else sa.CHAR(32))

    def process_bind_param(self, value: uuid.UUID | None, dialect: sa.Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else value.hex

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> uuid.UUID | None:
        return value if value is None or isinstance(value, uuid.UUID) else uuid.UUID(value)


class Author(Base):
    __tablename__ = "authors"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(50))


class Book(Base):
    __tablename__ = "books"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(50))
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("authors.id"))


class Line(Base):
    __tablename__ = "lines"

    id: Mapped[int] = mapped_column(primary_key=True)
    book_id: Mapped[int] = mapped_column(sa.ForeignKey("books.id"))
    text: Mapped[str] = mapped_column(sa.String(50))


class Sample(Base):
    __tablename__ = "samples"

    id: Mapped[int] = mapped_column(primary_key=True)
    whole: Mapped[int]
    short: Mapped[str] = mapped_column(sa.String(300))
    exact: Mapped[Decimal] = mapped_column(sa.Numeric(12, 2))
    loose: Mapped[Decimal] = mapped_column(sa.Numeric)
    exact_as_float: Mapped[float] = mapped_column(sa.Numeric(12, 2, asdecimal=False))
    real: Mapped[float] = mapped_column(sa.Double)
    yes: Mapped[bool]
    token: Mapped[bytes] = mapped_column(sa.LargeBinary)
    day: Mapped[dt.date]
    hour: Mapped[dt.time]
    moment: Mapped[dt.datetime] = mapped_column(UtcDateTime)
    plain_moment: Mapped[dt.datetime] = mapped_column(sa.DateTime)
    span: Mapped[dt.timedelta] = mapped_column(sa.Interval)
    unique_id: Mapped[uuid.UUID]
    identifier: Mapped[uuid.UUID] = mapped_column(Identifier)
    colour: Mapped[Colour] = mapped_column(sa.Enum(Colour, native_enum=False))
    native: Mapped[Colour] = mapped_column(sa.Enum(Colour, name="colour_type"))
    temperature: Mapped[Celsius] = mapped_column(Temperature)


class Document(Base):
    __tablename__ = "documents"

    id: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[dict[str, Any]] = mapped_column(sa.JSON().with_variant(JSONB(), "postgresql"))


class Named(BaseModel):
    id: int
    name: str


class SampleOut(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    id: int


class BooksWithLines(PagedRepository[Book, int]):
    """The books that have lines, found by a join that repeats a book for each of its lines."""

    def select(self) -> sa.Select[Book]:
        return super().select().join(Line, Line.book_id == Book.id).distinct().order_by(Book.name)


class LongBooks(PagedRepository[Book, int]):
    def select(self) -> sa.Select[Book]:
        joined = super().select().join(Line, Line.book_id == Book.id).group_by(Book.id)
        return joined.having(sa.func.count(Line.id) > 1).order_by(Book.name.desc())


class BooksOfAuthors(PagedRepository[Book, int]):
    def select(self) -> sa.Select[Book]:
        return super().select().join(Author, Author.id == Book.author_id)


@pytest.fixture
async def database(new_tables: NewTables) -> Database:
    database = await new_tables(Base.metadata)
    async with database.transaction() as session:
        await _fill(session)
    return database


async def _fill(session: AsyncSession) -> None:
    session.add_all([Author(id=number, name=name) for number, name in ((1, "Zoe"), (2, "Ada"), (3, "Mia"))])
    await session.flush()
    session.add_all([Book(id=number, name=f"book {9 - number}", author_id=1 + number % 3) for number in range(1, 7)])
    await session.flush()
    # Three of six books have lines: two, two and three.
    session.add_all([Line(book_id=book, text=str(n)) for n, book in enumerate((1, 1, 2, 2, 3, 3, 3))])
    for number in range(9):
        # Two of each value: the key decides between them.
        step = number // 2
        session.add(
            Sample(
                id=number,
                whole=step,
                short="é" * 290 + str(step),
                exact=Decimal(step) / 7,
                loose=Decimal(step) / 7,
                exact_as_float=step / 7,
                real=step / 7,
                yes=step > 2,
                token=bytes([255, step]),
                day=dt.date(2030, 1, 1 + step),
                hour=dt.time(1 + step, microsecond=1),
                moment=dt.datetime(2030, 1, 1 + step, microsecond=1, tzinfo=dt.UTC),
                plain_moment=dt.datetime(2030, 1, 1 + step, microsecond=1),  # noqa: DTZ001  # as the column is
                span=dt.timedelta(days=step, microseconds=1),
                unique_id=uuid.UUID(int=step),
                identifier=uuid.UUID(int=step),
                colour=Colour.BLUE if step < 2 else Colour.GREEN,
                native=Colour.BLUE if step < 2 else Colour.GREEN,
                temperature=Celsius(step),
            )
        )


async def walked(repository: PagedRepository[Any, int], into: type[Any], order: Sort | None, *where: Any) -> list[int]:
    """The ids that the pages of a list give one after the other."""
    ids: list[int] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await repository.page(PageRequest(limit=2, cursor=cursor), into, *where, order=order)
        ids += [item.id for item in page.items]
        cursor = page.next_cursor
        assert len(ids) < 20, "the pages repeat"
    return ids


# An overridden select()


@pytest.mark.parametrize("repository", [BooksWithLines, LongBooks])
@pytest.mark.parametrize("offset", [0, 2, 10])
async def test_the_total_counts_the_rows_of_a_select_with_distinct_or_group_by(
    database: Database, repository: type[PagedRepository[Book, int]], offset: int
) -> None:
    async with database.read() as session:
        books = repository(Book, session)
        page = await books.page(PageRequest(limit=2, offset=offset), Named)
        assert (page.total, len(page.items)) == (3, max(0, min(2, 3 - offset)))
        assert await books.count() == 3
        assert await books.count(Book.name == "book 8") == 1


@pytest.mark.parametrize("repository", [BooksWithLines, LongBooks])
@pytest.mark.parametrize("uses_orm", [False, True])
async def test_the_order_of_a_page_replaces_that_of_an_overridden_select(
    database: Database, repository: type[PagedRepository[Book, int]], *, uses_orm: bool
) -> None:
    async with database.read() as session:
        if uses_orm:
            await session.connection()
        books = repository(Book, session)
        assert await walked(books, Named, Sort(Book.name)) == [3, 2, 1]
        assert await walked(books, Named, None) == [1, 2, 3]
        assert [book.id for book in await books.get_all(into=Named)] == [1, 2, 3]
        assert [book.id for book in await get_many(books, [3, 1, 5], into=Named)] == [1, 3]
        assert await books.get_by_id(2, into=Named) == Named(id=2, name="book 7")
        assert await books.exists(2)
        assert not await books.exists(5)


# Orders by another table


_BY_AUTHOR = [1, 4, 2, 5, 3, 6]  # Ada has 1 and 4, Mia 2 and 5, Zoe 3 and 6.


async def test_pages_are_sorted_by_a_column_of_a_joined_table_that_has_the_name_of_an_own_column(
    database: Database,
) -> None:
    async with database.read() as session:
        assert await walked(BooksOfAuthors(Book, session), Named, Sort(Author.name)) == _BY_AUTHOR
        page = await BooksOfAuthors(Book, session).page(PageRequest(limit=4), Named, order=Sort(Author.name))
        assert ([book.id for book in page.items], page.total) == (_BY_AUTHOR[:4], 6)


async def test_orders_by_columns_of_one_name_are_distinguished(database: Database) -> None:
    joined = Book.author_id == Author.id
    other = aliased(Author)
    async with database.read() as session:
        books = PagedRepository[Book, int](Book, session)
        for _ in range(2):
            assert await walked(books, Named, Sort(Author.name), joined) == _BY_AUTHOR
            assert await walked(books, Named, Sort(Book.name), joined) == [6, 5, 4, 3, 2, 1]
            assert await walked(books, Named, Sort(Author.id), joined) == [3, 6, 1, 4, 2, 5]
            by_alias = Sort(other.name, Author.name)
            assert await walked(books, Named, by_alias, joined, other.id == Book.author_id) == _BY_AUTHOR


async def test_a_cursor_of_an_order_by_another_table_is_refused(database: Database) -> None:
    async with database.read() as session:
        books = BooksOfAuthors(Book, session)
        page = await books.page(PageRequest(limit=2, cursor=""), Named, order=Sort(Author.name))
        with pytest.raises(InvalidCursor):
            await books.page(PageRequest(limit=2, cursor=page.next_cursor), Named, order=Sort(Book.name))


# Types


_COLUMNS = [column.key for column in sa.inspect(Sample).column_attrs if column.key != "id"]


@pytest.mark.parametrize("name", _COLUMNS)
@pytest.mark.parametrize("descending", [False, True])
async def test_pages_sorted_by_a_column_of_any_type_give_each_row_once(
    database: Database, name: str, *, descending: bool
) -> None:
    order = Sort(getattr(Sample, name), descending=descending)
    async with database.read() as session:
        samples = PagedRepository[Sample, int](Sample, session)
        expected = [
            sample.id for sample in await samples.get_all(100, 0, *order.then(Sample.id).order_by(), into=SampleOut)
        ]
        assert await walked(samples, SampleOut, order) == expected
        assert sorted(expected) == list(range(9))


async def test_a_number_with_more_digits_than_its_column_does_not_repeat_a_page(
    database: Database,
) -> None:
    """SQLite stores the value unchanged; SQLAlchemy rounds what it reads."""
    async with database.transaction() as session:
        for number in range(9):
            await session.execute(
                sa.text("UPDATE samples SET exact = :exact WHERE id = :id")
                if database.placement.schema is None
                else sa.text("UPDATE events.samples SET exact = :exact WHERE id = :id"),
                {"exact": 1.23456 + number / 1e6 if database.placement.schema is None else Decimal(1), "id": number},
            )
    async with database.read() as session:
        assert await walked(PagedRepository(Sample, session), SampleOut, Sort(Sample.exact)) == list(range(9))


@pytest.mark.parametrize("column", [Document.content], ids=["JSON"])
async def test_an_order_by_a_column_without_an_order_is_refused_at_its_creation(column: Any) -> None:
    with pytest.raises(TypeError, match="cannot be sorted"):
        Sort(column)


_FORGED: list[Any] = [None, True, "x", "a\x00", 1, 1e400, 10**30, [], {}]
_FORGED += [
    ["bytes", "zz"],
    ["bytes", 1],
    ["decimal", "x"],
    ["decimal", "1"],
    ["datetime", "x"],
    ["date", "2030-01-01"],
]
_FORGED += [["uuid", ""], ["timedelta", str(10**30)], ["nothing", "1"]]


@pytest.mark.parametrize("name", _COLUMNS)
async def test_a_cursor_with_a_value_of_another_type_is_never_an_unexpected_error(
    database: Database, name: str
) -> None:
    order = Sort(getattr(Sample, name))
    signature = order.then(Sample.id).signature
    for value in _FORGED:
        request = PageRequest(cursor=_encoded([signature, value, 1]))
        async with database.read() as session:
            page = PagedRepository[Sample, int](Sample, session).page(request, SampleOut, order=order)
            [result] = await asyncio.gather(page, return_exceptions=True)
        is_refused = isinstance(result, InvalidCursor) or (
            isinstance(result, DBAPIError) and violation_of(result) == "value"
        )
        assert is_refused or isinstance(result, Page), (value, result)


def _encoded(content: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()
