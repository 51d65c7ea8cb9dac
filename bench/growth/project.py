"""Write a project of many modules, each with a table, a repository and routes."""

from collections.abc import Iterator
from pathlib import Path

_MANIFEST = '''"""The manifest of {name}."""

from kernel import Module

module = Module(owner="team-{team}")
'''

_MODELS = '''"""The table of {name}."""

import datetime as dt

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.database import BigId, Timestamps, Versioned, new_metadata


class Base(DeclarativeBase):
    """The declarative base of {name} alone."""

    metadata = new_metadata()


class Item(Timestamps, Versioned, Base):
    """A thing with a title, a text and a day."""

    __tablename__ = "items"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text)
    day: Mapped[dt.date]

    __table_args__ = (Index(None, "day", "id"),)
'''

_SCHEMAS = '''"""What goes over the wire."""

import datetime as dt
from typing import Annotated

from pydantic import BaseModel, StringConstraints

from kernel.ext.fields import NoNul, Omittable, RequestBody

Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), NoNul]
Description = Annotated[str, StringConstraints(strip_whitespace=True, max_length=10_000), NoNul]


class ItemIn(RequestBody):
    """A whole item."""

    title: Title
    description: Description = ""
    day: dt.date


class ItemPatch(RequestBody):
    """The fields to change."""

    title: Title = Omittable
    description: Description = Omittable
    day: dt.date = Omittable


class ItemOut(BaseModel):
    """An item as it is stored."""

    id: int
    title: str
    description: str
    day: dt.date
    version: int


class Fact(BaseModel):
    """Something known about an item without asking the database."""

    id: int
    text: str
'''

_REPOSITORY = '''"""Every query that {name} asks of the database."""

from sqlalchemy.ext.asyncio import AsyncSession

from kernel.ext.paging import PagedRepository
from modules.{name}.models import Item


class ItemRepository(PagedRepository[Item, int]):
    """The table of items."""

    def __init__(self, session: AsyncSession) -> None:
        super().__init__(Item, session)
'''

_ROUTER = '''"""The routes of {name}."""

from typing import Annotated

from fastapi import APIRouter, Path{more_fastapi}

{kernel_imports}from kernel.ext.fields import Id
{repository_import}from modules.{name}.schemas import {schemas}

router = APIRouter()

ItemId = Annotated[Id, Path()]
{dependency}'''

_WITH_TABLE = {
    "more_fastapi": ", Query",
    "kernel_imports": "from kernel import ExpectedVersions, or_404, problems, with_session\n"
    "from kernel.ext.paging import Page, PageRequest\n",
    "schemas": "Fact, ItemIn, ItemOut, ItemPatch",
    "dependency": "Items = Annotated[ItemRepository, with_session(ItemRepository)]\n",
}
_WITHOUT_TABLE = {
    "more_fastapi": "",
    "kernel_imports": "",
    "repository_import": "",
    "schemas": "Fact",
    "dependency": "",
}

_CRUD_ROUTES = (
    '''
@router.get("")
async def list_items(page: Annotated[PageRequest, Query()], items: Items) -> Page[ItemOut]:
    """List items."""
    return await items.page(page, ItemOut)
''',
    '''
@router.post("", status_code=201)
async def create_item(item: ItemIn, items: Items) -> ItemOut:
    """Create an item."""
    return await items.create(into=ItemOut, **item.model_dump())
''',
    '''
@router.get("/{item_id}", responses=problems(404))
async def read_item(item_id: ItemId, items: Items) -> ItemOut:
    """Read one item."""
    return or_404(await items.get_by_id(item_id, into=ItemOut), "item")
''',
    '''
@router.put("/{item_id}", responses=problems(404, 412))
async def replace_item(item_id: ItemId, item: ItemIn, items: Items, expected: ExpectedVersions) -> ItemOut:
    """Replace all of an item."""
    values = item.model_dump()
    return or_404(await items.update(item_id, into=ItemOut, expected_version=expected, **values), "item")
''',
    '''
@router.patch("/{item_id}", responses=problems(404, 412))
async def patch_item(item_id: ItemId, item: ItemPatch, items: Items, expected: ExpectedVersions) -> ItemOut:
    """Change some fields of an item."""
    values = item.model_dump(exclude_unset=True)
    return or_404(await items.update(item_id, into=ItemOut, expected_version=expected, **values), "item")
''',
    '''
@router.delete("/{item_id}", status_code=204, responses=problems(404, 412))
async def delete_item(item_id: ItemId, expected: ExpectedVersions, items: Items) -> None:
    """Delete an item."""
    or_404(await items.delete(item_id, expected_version=expected), "item")
''',
)

_FACT_ROUTE = '''
@router.get("/{{item_id}}/fact-{number}")
async def read_fact_{number}(item_id: ItemId) -> Fact:
    """Say something about an item."""
    return Fact(id=item_id, text="fact {number}")
'''

_MIGRATION = '''"""first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "items",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_items")),
    )
    op.create_index(op.f("ix_items_day_id"), "items", ["day", "id"])


def downgrade() -> None:
    op.drop_table("items")
'''


def write_project(root: Path, modules: int, routes: int, tables: int | None = None) -> Path:
    """Write a project with this many modules and routes at `root`, and return `root`.

    The first `tables` modules (None: all of them) have a table, a repository, a migration and up to six routes that use
    them. The other routes, in every module at least the last one, answer without a database, so that the cost of an
    answer does not hide the cost of routing.
    """
    if modules < 1 or routes < 1:
        raise ValueError("a project needs at least one module with one route")
    _write(root / "modules" / "__init__.py", "")
    for number in range(modules):
        name = module_name(number)
        has_table = tables is None or number < tables
        for file, text in _module_files(name, number, routes, has_table=has_table):
            _write(root / "modules" / name / file, text)
        if has_table:
            _write(root / "migrations" / name / "0001_first_tables.py", _MIGRATION)
    return root


def module_name(number: int) -> str:
    """Return the name of a module of the project, counted from 0."""
    return f"feature_{number:03}"


def last_path(modules: int, routes: int) -> str:
    """Return the path of the last route of the last module, which a linear search finds last."""
    return f"/api/v1/{module_name(modules - 1)}/7/fact-{routes - 1}"


def _module_files(name: str, number: int, routes: int, *, has_table: bool) -> Iterator[tuple[str, str]]:
    yield "__init__.py", f'"""Feature {number} of a project that is generated to be measured."""\n'
    yield "module.py", _MANIFEST.format(name=name, team=number // 10)
    yield "schemas.py", _SCHEMAS
    if has_table:
        yield "models.py", _MODELS.format(name=name)
        yield "repository.py", _REPOSITORY.format(name=name)
    parts = dict(_WITHOUT_TABLE)
    if has_table:
        parts = _WITH_TABLE | {"repository_import": f"from modules.{name}.repository import ItemRepository\n"}
    crud = _CRUD_ROUTES[: routes - 1] if has_table else ()
    facts = (_FACT_ROUTE.format(number=number) for number in range(len(crud), routes))
    yield "router.py", "\n".join((_ROUTER.format(name=name, **parts), *crud, *facts))


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
