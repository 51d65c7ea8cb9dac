"""Compare PostgreSQL's enum types: Alembic creates them with a table, and neither changes nor drops them.

SQLite has no enum types. A migration that is written on SQLite contains the changes for PostgreSQL as far as the models
show them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import CreateTableOp, DropTableOp, MigrateOperation, UpgradeOps
from alembic.runtime.plugins import Plugin
from alembic.util import DispatchPriority, PriorityDispatchResult
from sqlalchemy import ARRAY, Column, Enum, Inspector, MetaData, inspect
from sqlalchemy.dialects.postgresql.base import PGInspector

from kernel.ext.autogenerate.rendering import POSTGRESQL, type_on

PLUGIN = "kernel.enums"


@dataclass(eq=False)
class EnumOp(MigrateOperation):
    """One enum type: its labels before and after; None if the type does not exist."""

    name: str
    before: tuple[str, ...] | None
    after: tuple[str, ...] | None
    # The columns with this type: table, column, the text behind the type's name, and the default.
    columns: tuple[tuple[str, str, str, str | None], ...] = ()
    # A table that is created in the same migration creates its types.
    is_made_by_table: bool = False

    def reverse(self) -> "EnumOp":
        return EnumOp(self.name, self.after, self.before, self.columns, self.is_made_by_table)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("modify_enum", self.name, self.before, self.after)


def setup(plugin: Plugin) -> None:
    """Register a comparison of enum types after that of the tables."""
    plugin.add_autogenerate_comparator(_compare, "autogenerate", priority=DispatchPriority.LAST)


def _compare(context: AutogenContext, upgrade_ops: UpgradeOps) -> PriorityDispatchResult:
    assert isinstance(context.metadata, MetaData)  # noqa: S101  # each module has one
    assert context.connection is not None  # noqa: S101  # for the type checker: it is compared online
    new = [one for op in upgrade_ops.ops if isinstance(op, CreateTableOp) for one in op.columns]
    made = _enums(one for one in new if isinstance(one, Column))
    gone = [one for op in upgrade_ops.ops if isinstance(op, DropTableOp) for one in op.to_table().columns]
    dropped = _enums(gone)
    wanted, found = enums_of(context.metadata), {}
    inspector = inspect(context.connection)
    if isinstance(inspector, PGInspector):
        found = {one["name"]: tuple(one["labels"]) for one in inspector.get_enums()}
    else:  # If the column exists, the type of the column exists too.
        known = _enums(_columns_here(context.metadata, inspector))
        wanted = {name: labels for name, labels in wanted.items() if name not in known}
    first, last = [], []
    for name in sorted(wanted.keys() | found.keys()):
        before, after = found.get(name), wanted.get(name)
        if after is None:
            last.append(EnumOp(name, before, None, is_made_by_table=name in dropped))
        elif before is None:
            first.append(EnumOp(name, None, after, is_made_by_table=name in made))
        elif before != after:
            first.append(EnumOp(name, before, after, tuple(_uses(inspector, name))))
    upgrade_ops.ops[:] = [*first, *upgrade_ops.ops, *last]
    return PriorityDispatchResult.CONTINUE


def _columns_here(metadata: MetaData, inspector: Inspector) -> Iterator[Column[Any]]:
    """Return the columns of the models that the database has."""
    for name in inspector.get_table_names():
        if (table := metadata.tables.get(name)) is not None:
            names = {one["name"] for one in inspector.get_columns(name)}
            yield from (column for column in table.columns if column.name in names)


def enums_of(metadata: MetaData) -> dict[str, tuple[str, ...]]:
    """Return the enum types that the models have on PostgreSQL, with their labels."""
    return _enums(column for table in metadata.sorted_tables for column in table.columns)


def _enums(columns: Iterable[Column[Any]]) -> dict[str, tuple[str, ...]]:
    return {str(type_.name): tuple(type_.enums) for one in columns if (type_ := _enum(one)) is not None}


def _enum(column: Column[Any]) -> Enum | None:
    """Return the enum type that a column has on PostgreSQL, or None."""
    type_ = type_on(column.type, POSTGRESQL)
    if isinstance(type_, ARRAY):
        type_ = type_on(type_.item_type, POSTGRESQL)
    return type_ if isinstance(type_, Enum) and type_.native_enum and type_.name else None


def _uses(inspector: Inspector, name: str) -> Iterator[tuple[str, str, str, str | None]]:
    for table in inspector.get_table_names():
        for column in inspector.get_columns(table):
            type_ = column["type"]
            item = type_.item_type if isinstance(type_, ARRAY) else type_
            if isinstance(item, Enum) and item.name == name:
                yield table, column["name"], "[]" if isinstance(type_, ARRAY) else "", column["default"]


@renderers.dispatch_for(EnumOp)
def _render(_context: AutogenContext, op: EnumOp) -> Sequence[str]:
    if op.before is None or op.after is None:
        labels = ", ".join(map(repr, op.after or op.before or ()))
        step = "drop" if op.after is None else "create"
        is_done = op.is_made_by_table and op.after is not None
        return [] if is_done else [f"sa.Enum({labels}, name={op.name!r}).{step}(op.get_bind(), checkfirst=True)"]
    is_longer = [label for label in op.after if label in op.before] == list(op.before)
    statements = _added(op.name, op.before, op.after) if is_longer else _replaced(op)
    lines = [f"    op.execute({statement!r})" for statement in statements]
    return ['if op.get_bind().dialect.name == "postgresql":', *lines]


def _added(name: str, before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    """Yield a statement that adds each new label. Rows can use the label after this transaction."""
    for place, label in enumerate(after):
        if label not in before:
            following = next((one for one in after[place:] if one in before), None)
            where = f"AFTER {_literal(after[place - 1])}" if place else f"BEFORE {_literal(following or '')}"
            yield f"ALTER TYPE {_quoted(name)} ADD VALUE IF NOT EXISTS {_literal(label)} {where}"


def _replaced(op: EnumOp) -> Iterator[str]:
    """Yield statements that replace the type, because PostgreSQL cannot remove a label.

    They fail if a row uses a removed one.
    """
    name, old = _quoted(op.name), _quoted(f"{op.name}_before")
    yield f"ALTER TYPE {name} RENAME TO {old}"
    yield f"CREATE TYPE {name} AS ENUM ({', '.join(map(_literal, op.after or ()))})"
    for table, column, array, default in op.columns:
        alter = f"ALTER TABLE {_quoted(table)} ALTER COLUMN {_quoted(column)}"
        if default is not None:
            yield f"{alter} DROP DEFAULT"
        yield f"{alter} TYPE {name}{array} USING {_quoted(column)}::text{array}::{name}{array}"
        if default is not None:
            yield f"{alter} SET DEFAULT {default}"
    yield f"DROP TYPE {old}"


def _quoted(name: str) -> str:
    return POSTGRESQL.identifier_preparer.quote(name)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
