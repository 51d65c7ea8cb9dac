"""Schemas with related rows: one more statement for each relation, for any number of rows."""

import pytest
import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from kernel.database import Database, new_metadata
from kernel.ext.paging import PagedRepository, PageRequest, Sort
from kernel.ext.relations import RelatedSchema
from tests.core.databases import NewTables


class Base(DeclarativeBase):
    metadata = new_metadata()


_tagged = sa.Table(
    "tagged",
    Base.metadata,
    sa.Column("order_id", sa.ForeignKey("orders.id"), primary_key=True),
    sa.Column("tag_id", sa.ForeignKey("tags.id"), primary_key=True),
)


class Tag(Base):
    __tablename__ = "tags"

    id: Mapped[int] = mapped_column(primary_key=True)


class Customer(Base):
    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Part(Base):
    __tablename__ = "parts"

    id: Mapped[int] = mapped_column(primary_key=True)
    line_id: Mapped[int] = mapped_column(sa.ForeignKey("lines.id"))
    colour: Mapped[str]


class Line(Base):
    __tablename__ = "lines"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(sa.ForeignKey("orders.id"))
    position: Mapped[int]
    text: Mapped[str]
    parts: Mapped[list[Part]] = relationship(order_by=Part.colour)


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    customer_id: Mapped[int | None] = mapped_column(sa.ForeignKey("customers.id"))
    lines: Mapped[list[Line]] = relationship(order_by=Line.position)
    first_lines: Mapped[list[Line]] = relationship(
        primaryjoin=lambda: sa.and_(Line.order_id == Order.id, Line.position == 1), viewonly=True
    )
    customer: Mapped[Customer | None] = relationship()
    tags: Mapped[list[Tag]] = relationship(secondary=_tagged)


class PartOut(BaseModel):
    colour: str


class LineOut(RelatedSchema):
    text: str
    parts: list[PartOut]


class CustomerOut(BaseModel):
    name: str


class OrderOut(RelatedSchema):
    lines: list[LineOut]
    title: str
    customer: CustomerOut | None


class TitleOut(BaseModel):
    id: int
    title: str


@pytest.fixture
async def database(new_tables: NewTables) -> Database:
    database = await new_tables(Base.metadata)
    async with database.transaction() as session:
        session.add(Customer(id=7, name="Ada"))
        await session.flush()
        session.add_all([Order(id=number, title=f"order {number}") for number in range(1, 6)])
        await session.flush()
        session.add(Order(id=6, title="order 6", customer_id=7))
        red, green = Part(colour="red"), Part(colour="green")
        first = Line(order_id=1, position=2, text="second", parts=[red, green])
        session.add_all([first, Line(order_id=1, position=1, text="first"), Line(order_id=3, position=1, text="other")])
    return database


_FIRST = OrderOut(
    title="order 1",
    customer=None,
    lines=[
        LineOut(text="first", parts=[]),
        LineOut(text="second", parts=[PartOut(colour="green"), PartOut(colour="red")]),
    ],
)


@pytest.mark.parametrize("uses_orm", [False, True])
async def test_a_schema_has_its_related_rows_in_their_order(database: Database, *, uses_orm: bool) -> None:
    async with database.read() as session:
        if uses_orm:
            await session.connection()
        orders = PagedRepository[Order, int](Order, session)
        assert await orders.get_by_id(1, into=OrderOut) == _FIRST
        assert await orders.get_by_id(6, into=OrderOut) == OrderOut(
            title="order 6", customer=CustomerOut(name="Ada"), lines=[]
        )
        assert await orders.get_by_id(99, into=OrderOut) is None
        assert [len(order.lines) for order in await orders.get_all(into=OrderOut)] == [2, 0, 1, 0, 0, 0]


async def test_pages_of_schemas_with_related_rows_continue_by_cursor(database: Database) -> None:
    async with database.read() as session:
        orders = PagedRepository[Order, int](Order, session)
        order = Sort(Order.title)
        page = await orders.page(PageRequest(limit=2), OrderOut, order=order)
        assert (page.items[0], page.total) == (_FIRST, 6)
        following = await orders.page(PageRequest(limit=2, cursor=page.next_cursor), OrderOut, order=order)
        assert [(item.title, len(item.lines)) for item in following.items] == [("order 3", 1), ("order 4", 0)]


async def test_each_relation_is_one_statement_for_all_rows(database: Database, seen_by_the_driver: list[str]) -> None:
    async with database.read() as session:
        await PagedRepository[Order, int](Order, session).page(PageRequest(), OrderOut)
    assert len(seen_by_the_driver) == 4  # Orders, lines, their parts, customers.


async def test_a_written_row_is_returned_with_its_related_rows(database: Database) -> None:
    async with database.transaction() as session:
        orders = PagedRepository[Order, int](Order, session)
        created = await orders.create(into=OrderOut, id=50, title="new", customer_id=7)
        assert created == OrderOut(title="new", customer=CustomerOut(name="Ada"), lines=[])
        changed = await orders.update(1, into=OrderOut, title="changed")
        assert changed == _FIRST.model_copy(update={"title": "changed"})


class Wrong(RelatedSchema):
    tags: list[TitleOut]


class WrongToo(RelatedSchema):
    first_lines: list[LineOut]


class NoList(RelatedSchema):
    lines: LineOut


class NoSchema(RelatedSchema):
    lines: list[int]


class NoColumn(RelatedSchema):
    shoe_size: int


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (Wrong, "Wrong.tags is a relation by more than one pair"),
        (WrongToo, "WrongToo.first_lines is a relation by more than one pair"),
        (NoList, r"NoList.lines is a relation of Order: annotate it as list\[SCHEMA\]"),
        (NoSchema, r"NoSchema.lines is a relation of Order: annotate it as list\[SCHEMA\]"),
        (NoColumn, "it has no column shoe_size"),
    ],
)
async def test_a_relation_that_cannot_be_read_is_refused_with_its_name(
    database: Database, schema: type[BaseModel], reason: str
) -> None:
    async with database.read() as session:
        with pytest.raises(TypeError, match=reason):
            await PagedRepository[Order, int](Order, session).get_all(into=schema)
