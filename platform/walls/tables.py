"""The rule own-tables: no module names another's tables, in Python, in SQL or in a migration."""

import ast
from collections.abc import Iterator
from typing import NamedTuple

from walls.findings import Finding
from walls.owned import Owned
from walls.project import Project
from walls.references import references
from walls.sources import Source, last_name, line_of
from walls.strings import UNKNOWN, Strings, documentation

RULE = "own-tables"

# Calls whose first argument is SQL, whatever they are called on.
_SQL = frozenset(
    {
        "literal_column", "executemany", "exec_driver_sql", "fetchrow", "fetchval", "DDL", "CheckConstraint",
        "Computed", "prefix_with", "suffix_with", "with_hint", "execute_fetchall", "executescript", "from_statement",
        "copy_from_query",
    }
)  # fmt: skip
# Those that other libraries have, too: there, only what has the shape of a statement is SQL.
_OFTEN_SQL = frozenset({"text", "execute", "scalar", "scalars", "stream", "fetch", "cursor"})
_DATABASE = ("sqlalchemy.", "alembic.")
_SQL_KEYWORDS = frozenset({"sql", "sqltext", "statement", "text"})
# Alembic's operations that take the name of a table, by place or by one of these keywords.
_OPERATIONS = frozenset(
    {
        "add_column", "alter_column", "batch_alter_table", "bulk_insert", "create_check_constraint",
        "create_exclude_constraint", "create_foreign_key", "create_index", "create_primary_key",
        "create_table_comment", "create_unique_constraint", "drop_column", "drop_constraint", "drop_index",
        "drop_table", "drop_table_comment", "rename_table", "get_columns", "get_indexes", "has_table",
        "get_foreign_keys",
    }
)  # fmt: skip
_OF_COLUMNS = frozenset({"add_column", "alter_column", "drop_column"})
_COLUMN_KEYWORDS = frozenset({"column", "column_name"})
_TABLE_KEYWORDS = frozenset({"table_name", "source_table", "referent_table", "old_table_name", "new_table_name"})

_ASK = "Ask through the other module's contract, or keep what you need in a table of your own."


def check(project: Project) -> Iterator[Finding]:
    """What each module's files and migrations name of others' tables."""
    owned = Owned(project)
    for module, source in project.of_modules():
        yield from _own_tables(owned, module.name, source, Strings(project, source))
    for name, sources in project.migrations.items():
        for source in sources:
            if name in project.modules:
                strings = Strings(project, source)
                yield from _own_tables(owned, name, source, strings)
                yield from _migrated(owned, name, source, strings)


def _own_tables(owned: Owned, module: str, source: Source, strings: Strings) -> Iterator[Finding]:
    for line, other, what in references(owned, module, source, strings):
        why = f"This names {what} of {other}: only {other} reads and writes its tables."
        yield Finding(source.path, line, RULE, why, _ASK)
    yield from _in_sql(owned, module, source, strings)


class _Text(NamedTuple):
    text: str
    line: int
    # Whether it must be SQL, a fragment too; and whether it must be if it has the shape of a statement.
    is_certain: bool = False
    is_likely: bool = False


def _in_sql(owned: Owned, module: str, source: Source, strings: Strings) -> Iterator[Finding]:
    for text, line, is_certain, is_likely in _texts(source, strings):
        if not owned.words.search(text):
            continue
        from walls import sql  # noqa: PLC0415  # a fifth of a second, which most projects need not pay

        if not is_certain and not sql.is_statement(text):
            continue
        is_sql = is_certain or is_likely
        for schema, table in sorted(sql.tables(text, is_sql=is_sql), key=str):
            if other := owned.owner(module, table, schema):
                what = f"the table {table}" if table else f"the schema {schema}"
                why = f"This SQL names {what} of {other}: only {other} reads and writes its tables."
                yield Finding(source.path, line, RULE, why, _ASK)
        if is_sql and sql.changes_role(text):
            why = "This SQL takes another role, and with it the rights of another module."
            yield Finding(source.path, line, RULE, why, "Leave roles to the kernel.")


def _texts(source: Source, strings: Strings) -> Iterator[_Text]:
    """The strings of a file with their lines, and how certain it is that they are SQL."""
    ignored, seen = documentation(source), set[int]()
    for call in source.calls:
        yield from _in_from(source, strings, call)
        dotted = source.named(call.func) or ""
        name = dotted.rpartition(".")[2] or last_name(call.func)
        is_certain = name in _SQL or (name in _OFTEN_SQL and dotted.startswith(_DATABASE))
        if is_certain or name in _OFTEN_SQL:
            for sql in [*call.args[:1], *(one.value for one in call.keywords if one.arg in _SQL_KEYWORDS)]:
                seen |= {id(one) for one in ast.walk(sql)}
                yield from (_Text(text, call.lineno, is_certain, True) for text in strings.of(sql))
    for node in source.nodes:
        texts: list[str] = []
        if isinstance(node, ast.AugAssign):
            texts = strings.of(node.target)
        elif isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp | ast.Call) and id(node) not in seen | ignored:
            texts = strings.of(node)
            # Of a text in parts only the whole is looked at. A call may have other texts in it.
            seen |= {id(one) for one in ast.walk(node)} if texts and not isinstance(node, ast.Call) else set()
        yield from (_Text(text, line_of(node)) for text in texts)


def _in_from(source: Source, strings: Strings, call: ast.Call) -> Iterator[_Text]:
    """Texts that stand for a table, as in `select_from(text("images"))`, or for the argument of a function."""
    name = last_name(call.func)
    for one in call.args if name in {"select_from", "join", "outerjoin"} else ():
        if name == "select_from" or (isinstance(one, ast.Call) and source.named(one.func) == "sqlalchemy.text"):
            yield from (_Text("SELECT 1 FROM " + text, call.lineno, True) for text in strings.of(one))  # noqa: S608
    if (source.named(call.func) or "").startswith("sqlalchemy.func."):
        quoted = ["'" + (strings.of(one) or [UNKNOWN])[0].replace("'", "''") + "'" for one in call.args]
        yield _Text(f"SELECT {name}({', '.join(quoted)})", call.lineno, True)


def _migrated(owned: Owned, module: str, source: Source, strings: Strings) -> Iterator[Finding]:
    """Alembic's operations on a table that another module's models have."""
    for call in source.calls:
        if last_name(call.func) not in _OPERATIONS:
            continue
        named = [*_named_tables(call), *(one.value for one in call.keywords if one.arg in _TABLE_KEYWORDS)]
        for other, table in {(owned.owner(module, text), text) for node in named for text in strings.of(node)}:
            if other is not None and table != UNKNOWN:
                why = f"This migration of {module} touches the table {table} of {other}, which only {other} may change."
                instead = f"Write it in migrations/{other}, or ask {other}'s owner to."
                yield Finding(source.path, call.lineno, RULE, why, instead)


def _named_tables(call: ast.Call) -> list[ast.expr]:
    """The positional arguments of an operation that are tables: for constraints and indexes a name comes first."""
    name = last_name(call.func)
    if name == "create_foreign_key":
        return call.args[1:3]
    if name in {"drop_index", "drop_constraint"} or (name.startswith("create_") and name != "create_table_comment"):
        return call.args[1:2]
    if name in _OF_COLUMNS and len(call.args) == 1 and not _COLUMN_KEYWORDS & {one.arg for one in call.keywords}:
        return []  # of a batch, which has said its table: what comes first is the column
    return call.args[:2] if name == "rename_table" else call.args[:1]
