"""The types in a written migration, and the differences that a comparison finds."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from kernel.database.errors import MigrationError
from kernel.database.migrations import History
from kernel.ext.autogenerate.comparison import differences, not_compared, write
from kernel.runtime import Kernel
from kernel.testing import query, settings_for
from tests.core.project import imported_alone, write_project

HEAD = """
import uuid
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from kernel.database import BigId, UtcDateTime, new_metadata

class Base(DeclarativeBase):
    metadata = new_metadata()

class Colour(StrEnum):
    red = "red"
    blue = "blue"

class Guid(sa.TypeDecorator):
    impl = sa.CHAR(36)
    cache_ok = True
    def load_dialect_impl(self, dialect):
        return dialect.type_descriptor(postgresql.UUID() if dialect.name == "postgresql" else sa.CHAR(36))

class Json(sa.TypeDecorator):
    impl = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
    cache_ok = True

class Wrapped(sa.TypeDecorator):
    impl = Guid
    cache_ok = True

class Document(sa.TypeDecorator):
    impl = postgresql.JSONB
    cache_ok = True

class Words(sa.TypeDecorator):
    impl = postgresql.ARRAY(sa.String(20))
    cache_ok = True
"""
THING = """
class Thing(Base):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    amount: Mapped[Decimal] = mapped_column(sa.Numeric(10, 2), server_default="0")
    colour: Mapped[Colour]
    kind: Mapped[str]
    __table_args__ = (sa.CheckConstraint("amount >= 0", name="positive"),)

class Pair(Base):
    __tablename__ = "pairs"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    twice: Mapped[int] = mapped_column(sa.Integer, sa.Computed("id * 2"))
"""


def history_of(root: Path, url: str, models: str) -> History:
    """Return the history of a module with these models."""
    write_project(root, {"shop/models.py": models})
    with imported_alone():
        [history] = Kernel(settings_for(root, {"DATABASE_URL": url})).histories()
    return history


def columns(history: History) -> dict[str, str]:
    """Return the types of the first migration's columns, by name."""
    [file] = history.folder.glob("*.py")
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    found = [call.args for call in calls if ast.unparse(call.func) == "sa.Column"]
    return {ast.literal_eval(name): ast.unparse(type_) for name, type_, *_ in found}


TYPES = {
    "timedelta": ("Mapped[timedelta]", "sa.Interval()"),
    "guid": ("Mapped[uuid.UUID] = mapped_column(Guid)", "sa.CHAR(length=36).with_variant(sa.UUID(), 'postgresql')"),
    "wrapped": ("Mapped[object] = mapped_column(Wrapped)", "sa.CHAR(length=36).with_variant(sa.UUID(), 'postgresql')"),
    "moment": ("Mapped[object] = mapped_column(UtcDateTime)", "sa.DateTime(timezone=True)"),
    "json": (
        "Mapped[object] = mapped_column(Json)",
        "sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), 'postgresql')",
    ),
    "plain_variant": (
        "Mapped[object] = mapped_column(sa.JSON().with_variant(postgresql.JSONB(), 'postgresql'))",
        "sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), 'postgresql')",
    ),
}
OF_POSTGRESQL = {
    "document": ("Mapped[object] = mapped_column(Document)", "postgresql.JSONB(astext_type=sa.Text())"),
    "words": ("Mapped[object] = mapped_column(Words)", "postgresql.ARRAY(sa.String(length=20))"),
    "guids": (
        "Mapped[object] = mapped_column(postgresql.ARRAY(Guid))",
        "postgresql.ARRAY(sa.CHAR(length=36).with_variant(sa.UUID(), 'postgresql'))",
    ),
}


async def test_every_type_is_written_as_its_type_on_both_databases(tmp_path: Path, empty_url: str) -> None:
    wanted = TYPES | (OF_POSTGRESQL if empty_url.startswith("postgresql") else {})
    fields = "\n".join(f"    {name}: {annotation}" for name, (annotation, _) in wanted.items())
    table = (
        'class Thing(Base):\n    __tablename__ = "things"\n    id: Mapped[int] = mapped_column(BigId, primary_key=True)'
    )
    history = history_of(tmp_path, empty_url, f"{HEAD}\n{table}\n{fields}\n")
    file = await write(history, "first")
    assert {name: columns(history)[name] for name in wanted} == {name: text for name, (_, text) in wanted.items()}
    assert "kernel" not in file.read_text()
    for _ in range(2):
        await history.upgrade()
        assert await differences(history) == []
        await history.downgrade("base")


CHANGES = {
    "a default": ('server_default="0"', 'server_default="1"', "amount"),
    "a default that is gone": (', server_default="0"', "", "amount"),
    "a check that is new": (
        "__table_args__ = (",
        '__table_args__ = (sa.CheckConstraint("id > 0", name="id"), ',
        "ck_things_id",
    ),
    "a check that is gone": ('sa.CheckConstraint("amount >= 0", name="positive"),', "", "ck_things_positive"),
    "a check of another text": ("amount >= 0", "amount > 0", "ck_things_positive"),
    "a computed column": ("id * 2", "id * 3", "computed column twice"),
    "a column that is no longer computed": (', sa.Computed("id * 2")', "", "computed column twice"),
    "a primary key": ("kind: Mapped[str]", "kind: Mapped[str] = mapped_column(primary_key=True)", "primary key"),
    "a label": ('blue = "blue"', 'blue = "blue"\n    green = "green"', "green"),
    "a label that is gone": ('    blue = "blue"\n', "", "blue"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_comparison_sees(tmp_path: Path, empty_url: str, change: str) -> None:
    old, new, named = CHANGES[change]
    history = history_of(tmp_path, empty_url, HEAD + THING)
    await write(history, "first")
    await history.upgrade()
    assert await differences(history) == []
    models = (HEAD + THING).replace(old, new)
    assert models != HEAD + THING
    history = history_of(tmp_path, empty_url, models)
    if "label" in change and history.placement.schema is None:
        assert "SQLite has no enum types" in not_compared(history)[0]
        return
    assert named in "".join(await differences(history))
    text = (await write(history, "second")).read_text()
    if "by_hand" in "".join(await differences(history)):  # The migration fails until its author has completed it.
        with pytest.raises(NotImplementedError, match="Write this by hand"):
            await history.upgrade()
        return
    assert "green" in text or "green" not in models
    await history.upgrade()
    assert await differences(history) == []
    await history.downgrade("0001")
    assert await differences(history_of(tmp_path, empty_url, HEAD + THING)) == []
    await history.upgrade()
    assert await differences(history) == []


async def test_expressions_that_the_database_rewrites_are_no_difference(tmp_path: Path, empty_url: str) -> None:
    table_args = """(
        sa.CheckConstraint("kind IN ('a', 'b') AND amount BETWEEN 0 AND 5 AND length(kind) < 3", name="odd"),
        sa.CheckConstraint(sa.column("amount") >= 0, name="expression"),
    )"""
    thing = THING.replace('(sa.CheckConstraint("amount >= 0", name="positive"),)', table_args)
    thing = thing.replace("id * 2", "CASE WHEN id IN (1, 2) THEN 3 ELSE 4 END")
    thing = thing.replace(
        "    kind: Mapped[str]", "    kind: Mapped[str] = mapped_column(server_default=sa.text(\"'a'\"))"
    )
    history = history_of(tmp_path, empty_url, HEAD + thing)
    await write(history, "first")
    await history.upgrade()
    assert await differences(history) == []


@pytest.fixture
def postgresql_url(new_database: Callable[[str], URL]) -> str:
    return str(new_database("enums"))


ENUMS = "SELECT string_agg(enumlabel, ',' ORDER BY enumsortorder) FROM pg_enum"


async def test_migrations_that_were_written_on_sqlite_create_and_drop_enum_types(
    tmp_path: Path, postgresql_url: str
) -> None:
    with_size = THING.replace("colour: Mapped[Colour]", "colour: Mapped[Colour]\n    size: Mapped[Size | None]")
    size = '\nclass Size(StrEnum):\n    small = "small"\n\n'
    for message, models in (("first", HEAD + THING), ("second", HEAD + size + with_size)):
        history = history_of(tmp_path, f"sqlite:///{tmp_path / 'data'}", models)
        await write(history, message)
        await history.upgrade()
    history = history_of(tmp_path, postgresql_url, HEAD + size + with_size)
    for _ in range(2):
        await history.upgrade()
        assert await differences(history) == []
        await history.downgrade("base")
        assert query(history.placement.url, "SELECT count(*) FROM pg_enum") == "0"


async def test_labels_keep_their_order_and_rows_their_values(tmp_path: Path, postgresql_url: str) -> None:
    models = HEAD + THING.replace(
        "colour: Mapped[Colour]", 'colour: Mapped[Colour] = mapped_column(server_default="red")'
    )
    history = history_of(tmp_path, postgresql_url, models)
    await write(history, "first")
    await history.upgrade()
    url = history.placement.url
    query(url, "INSERT INTO shop.things (kind) VALUES ('x')")
    more = models.replace('    red = "red"\n', '    black = "black"\n    red = "red"\n    green = "green"\n')
    history = history_of(tmp_path, postgresql_url, more)
    await write(history, "more")
    await history.upgrade()
    assert query(url, ENUMS) == "black,red,green,blue"
    history = history_of(tmp_path, postgresql_url, models)
    await write(history, "fewer")
    await history.upgrade()
    assert query(url, ENUMS) == "red,blue"
    query(url, "INSERT INTO shop.things (kind) VALUES ('y')")
    assert query(url, "SELECT string_agg(DISTINCT colour::text, ',') FROM shop.things") == "red"
    assert await differences(history) == []


async def test_an_enum_of_a_new_column_is_created_and_dropped_with_it(tmp_path: Path, postgresql_url: str) -> None:
    without = HEAD + THING.replace("    colour: Mapped[Colour]\n", "")
    history = history_of(tmp_path, postgresql_url, without)
    await write(history, "first")
    await history.upgrade()
    history = history_of(tmp_path, postgresql_url, HEAD + THING)
    await write(history, "colour")
    for _ in range(2):
        await history.upgrade()
        assert await differences(history) == []
        await history.downgrade("0001")
        assert query(history.placement.url, "SELECT count(*) FROM pg_enum") == "0"
    await history.upgrade()
    history = history_of(tmp_path, postgresql_url, without)
    await write(history, "colourless")
    await history.upgrade()
    assert query(history.placement.url, "SELECT count(*) FROM pg_enum") == "0"
    await history.downgrade("0002")
    assert query(history.placement.url, ENUMS) == "red,blue"


async def test_without_a_difference_the_command_lists_what_was_not_compared(tmp_path: Path) -> None:
    history = history_of(tmp_path, f"sqlite:///{tmp_path / 'data'}", HEAD + THING)
    await write(history, "first")
    await history.upgrade()
    with pytest.raises(MigrationError, match=r"nothing to migrate\. Not compared: the labels of colour"):
        await write(history, "again")
