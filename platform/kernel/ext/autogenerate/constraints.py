"""Compare the parts of tables that Alembic does not: primary keys, the text of CHECK constraints, computed columns."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import AddConstraintOp, DropConstraintOp, MigrateOperation, ModifyTableOps
from alembic.runtime.plugins import Plugin
from alembic.util import PriorityDispatchResult
from sqlalchemy import CheckConstraint, Computed, Connection, Table, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import ClauseElement, conv

PLUGIN = "kernel.constraints"
_COPY = "kernel_compared"
_CHECKS = """
    SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = to_regclass(:name) AND contype = 'c'
"""
_COMPUTED = """
    SELECT attname, pg_get_expr(adbin, adrelid) FROM pg_attrdef
    JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
    WHERE adrelid = to_regclass(:name) AND attgenerated <> ''
"""
Texts = Mapping[str, str]


@dataclass(eq=False)
class ByHandOp(MigrateOperation):
    """A difference that a migration must resolve by hand, because only its author knows how to convert the rows."""

    table: str
    what: str
    before: str
    after: str

    def reverse(self) -> "ByHandOp":
        return ByHandOp(self.table, self.what, self.after, self.before)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("by_hand", self.table, self.what, self.before, self.after)


@renderers.dispatch_for(ByHandOp)
def _render(_context: AutogenContext, op: ByHandOp) -> str:
    sentence = f"Write this by hand: the {op.what} of {op.table} changes from {op.before} to {op.after}."
    return f"raise NotImplementedError({sentence!r})"


def setup(plugin: Plugin) -> None:
    """Register a comparison of each table that both the models and the database have."""
    plugin.add_autogenerate_comparator(_compare, "table")


def _compare(
    context: AutogenContext,
    changes: ModifyTableOps,
    _schema: str | None,
    name: str,
    here: Table | None,
    wanted: Table | None,
) -> PriorityDispatchResult:
    if here is None or wanted is None:
        return PriorityDispatchResult.CONTINUE
    assert context.connection is not None  # noqa: S101  # for the type checker: it is compared online
    inspector, on_postgresql = inspect(context.connection), context.connection.dialect.name == "postgresql"
    before = inspector.get_pk_constraint(name)["constrained_columns"]
    after = [column.name for column in wanted.primary_key.columns]
    if before != after:
        changes.ops.append(ByHandOp(name, "primary key", f"({', '.join(before)})", f"({', '.join(after)})"))
    found = {str(one["name"]): one["sqltext"] for one in inspector.get_check_constraints(name)}
    checks = {
        str(one.name): one for one in wanted.constraints if isinstance(one, CheckConstraint) and str(one.name) in found
    }
    computed = {
        one["name"]: (one["computed"]["sqltext"] if "computed" in one else "nothing")
        for one in inspector.get_columns(name)
        if one["name"] in wanted.columns
    }
    model = _Model(
        {constraint: _text(one.sqltext, context.connection) for constraint, one in checks.items()},
        {
            column: _text(default.sqltext, context.connection)
            if isinstance(default := wanted.columns[column].server_default, Computed)
            else "nothing"
            for column in computed
        },
    )
    compare = _as_postgresql if on_postgresql else _as_text
    for constraint in compare(context.connection, wanted, _Model(found, computed), model):
        if constraint in checks:
            old = CheckConstraint(found[constraint], name=conv(constraint), table=here)
            changes.ops += [DropConstraintOp.from_constraint(old), AddConstraintOp.from_constraint(checks[constraint])]
        else:
            what = f"computed column {constraint}"
            changes.ops.append(ByHandOp(name, what, computed[constraint], model.computed[constraint]))
    return PriorityDispatchResult.CONTINUE


class _Model(NamedTuple):
    """The texts of CHECK constraints and of computed columns, each by its name."""

    checks: Texts
    computed: Texts


def _as_text(_connection: Connection, _table: Table, found: _Model, wanted: _Model) -> Iterator[str]:
    """Yield the names whose texts differ in more than spaces, quotes and brackets: SQLite stores texts unchanged."""
    for texts, others in zip(found, wanted, strict=True):
        yield from (name for name, text in others.items() if _bare(text) != _bare(texts[name]))


def _bare(text: str) -> str:
    return re.sub(r"[\s\"`()\[\]]", "", text).lower()


def _as_postgresql(connection: Connection, table: Table, found: _Model, wanted: _Model) -> Iterator[str]:
    """Yield the names whose texts still differ after PostgreSQL, which rewrites each text, has parsed the model's."""
    different = {
        name for name, text in wanted.computed.items() if (text == "nothing") != (found.computed[name] == "nothing")
    }
    both = [name for name, text in wanted.computed.items() if text != "nothing" and name not in different]
    quote = connection.dialect.identifier_preparer.quote
    steps = {name: f"ADD CONSTRAINT {quote(name)} CHECK ({text})" for name, text in wanted.checks.items()}
    for name in both:
        type_ = table.columns[name].type.compile(dialect=connection.dialect)
        kept = f"DROP COLUMN {quote(name)}, ADD COLUMN {quote(name)} {type_}"
        steps[name] = f"{kept} GENERATED ALWAYS AS ({wanted.computed[name]}) STORED"
    if steps:
        with connection.begin_nested() as savepoint:
            connection.exec_driver_sql(f"CREATE TEMP TABLE {_COPY} (LIKE {quote(table.name)})")
            for step in sorted(steps, key=lambda name: name in wanted.checks):  # A CHECK may name a computed column.
                try:
                    with connection.begin_nested():
                        connection.exec_driver_sql(f"ALTER TABLE {_COPY} {steps[step]}")
                except DBAPIError:  # The text names a column that the table does not have yet.
                    different.add(step)
            texts = {name: dict(_read(connection, name)) for name in (_COPY, quote(table.name))}
            savepoint.rollback()
        different |= {name for name in steps if texts[_COPY].get(name) != texts[quote(table.name)].get(name)}
    yield from sorted(different)


def _read(connection: Connection, table: str) -> Iterator[tuple[str, str]]:
    for query in (_CHECKS, _COMPUTED):
        yield from ((name, expression) for name, expression in connection.execute(text(query), {"name": table}))


def _text(expression: ClauseElement, connection: Connection) -> str:
    return str(expression.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))
