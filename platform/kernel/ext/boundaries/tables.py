"""The rule own-tables: no module names the tables of another, in Python, in SQL or in a migration."""

import ast
from collections.abc import Iterator
from typing import NamedTuple

from kernel.ext.boundaries.callees import called
from kernel.ext.boundaries.findings import Finding
from kernel.ext.boundaries.owned import Owned
from kernel.ext.boundaries.project import Project, module_at, module_of
from kernel.ext.boundaries.references import references
from kernel.ext.boundaries.sources import Source, last_name, line_of
from kernel.ext.boundaries.strings import UNKNOWN, Strings, documentation

RULE = "own-tables"

# Methods of connections, statements and drivers whose first argument is SQL, on any object.
_SQL = frozenset(
    {
        "literal_column", "executemany", "exec_driver_sql", "fetchrow", "fetchval", "DDL", "CheckConstraint",
        "Computed", "prefix_with", "suffix_with", "with_hint", "execute_fetchall", "executescript", "from_statement",
        "copy_from_query", "with_statement_hint",
    }
)  # fmt: skip
# Methods that other libraries have too: on unknown objects, only a text with the shape of a statement is SQL.
_OFTEN_SQL = frozenset({"text", "execute", "scalar", "scalars", "stream", "stream_scalars", "fetch", "cursor"})
_DATABASE = ("sqlalchemy.", "alembic.")
_SQL_KEYWORDS = frozenset({"sql", "sqltext", "statement", "text"})

_ASK = "Use the other module's contract, or keep the data in a table of your own."


def check(project: Project) -> Iterator[Finding]:
    """Find the tables of other modules that models, files and migrations name."""
    owned = Owned(project)
    yield from _in_metadata(project, owned)
    files = [(module.name, source) for module, source in project.of_modules()]
    files += [(name, one) for name, several in project.migrations.items() if name in project.modules for one in several]
    for module, source in files:
        strings = Strings(project, source)
        for line, other, what in references(project, owned, module, source, strings):
            why = f"This names {what} of {other}: only {other} reads and writes its tables." if other else what
            yield Finding(source.path, line, RULE, why, _ASK if other else "Use the module's own session and tables.")
        for text, line, is_certain, is_likely in _texts(project, source, strings):
            yield from _in_sql(owned, module, (source.path, line), text, is_certain=is_certain, is_likely=is_likely)
    for module, path, text in project.sql:
        yield from _in_sql(owned, module, (path, 0), text, is_certain=True)


def _in_metadata(project: Project, owned: Owned) -> Iterator[Finding]:
    """Check the metadata of the models, and the statements that models and migrations send."""
    facts = project.facts.get("metadata", {})
    named = [(*one, None) for one in facts.get("references", ())]
    for one in facts.get("tables", ()):  # a module's own table may have any name
        is_own = module_of(one["base"] or "") == module_at(one["path"]) and one["schema"] is None
        named += [] if is_own else [(one["path"], one["line"], "table", one["schema"], one["name"], None)]
    for path, line, what, schema, name, _ in named:
        module = module_at(path) or ""
        other = module_of(name) if what == "entity" else owned.owner(module, name, schema)
        if other not in {None, module} and module in project.modules:
            why = f"This names the {what} {name} of {other}: only {other} reads and writes its tables."
            yield Finding(path, line, RULE, why, _ASK)
    for path, line, reason in facts.get("unresolved", ()):
        why = f"This does not resolve among the module's own models ({reason})."
        yield Finding(path, line, RULE, why, _ASK)
    for path, line, text in facts.get("statements", ()):
        module = module_at(path) or ""
        if module in project.modules:
            yield from _in_sql(owned, module, (path, line), text, is_certain=True)


def _in_sql(
    owned: Owned, module: str, place: tuple[str, int], text: str, *, is_certain: bool = False, is_likely: bool = False
) -> Iterator[Finding]:
    if not owned.words(module).search(text):
        return
    from kernel.ext.boundaries import sql  # noqa: PLC0415  # importing sqlglot takes a fifth of a second

    if not is_certain and not sql.is_statement(text):
        return
    is_sql = is_certain or is_likely
    for schema, table in sorted(sql.tables(text, is_sql=is_sql), key=str):
        if other := owned.owner(module, table, schema):
            what = f"the table {table}" if table else f"the schema {schema}"
            why = f"This SQL names {what} of {other}: only {other} reads and writes its tables."
            yield Finding(*place, RULE, why, _ASK)
    for what in sql.forbidden(text, module) if is_sql or sql.is_statement(text) else ():
        yield Finding(*place, RULE, f"This SQL {what}", "Leave roles, paths and databases to the kernel.")


class _Text(NamedTuple):
    text: str
    line: int
    # Whether the text is SQL, also a fragment; and whether it is SQL if it has the shape of a statement.
    is_certain: bool = False
    is_likely: bool = False


def _texts(project: Project, source: Source, strings: Strings) -> Iterator[_Text]:
    """Return the texts of a file with their lines, and how certain it is that they are SQL."""
    ignored, seen = documentation(source), set[int]()
    for call, dotted in called(project, source):
        name = dotted.rpartition(".")[2]
        yield from _in_from(source, strings, call, dotted)
        is_certain = (name in _SQL and "." in dotted) or (name in _OFTEN_SQL and dotted.startswith(_DATABASE))
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
            # Only the whole of a composed text is checked. A call may contain other texts.
            seen |= {id(one) for one in ast.walk(node)} if texts and not isinstance(node, ast.Call) else set()
        yield from (_Text(text, line_of(node)) for text in texts)


def _in_from(source: Source, strings: Strings, call: ast.Call, dotted: str) -> Iterator[_Text]:
    """Return texts in the position of a table, as in `select_from(text("images"))`, or of a function's argument."""
    name = last_name(call.func)
    for one in call.args if name in {"select_from", "join", "outerjoin"} else ():
        if name == "select_from" or (isinstance(one, ast.Call) and source.named(one.func) == "sqlalchemy.text"):
            yield from (_Text("SELECT 1 FROM " + text, call.lineno, True) for text in strings.of(one))  # noqa: S608
    if dotted.startswith("sqlalchemy.func."):
        quoted = ["'" + (strings.of(one) or [UNKNOWN])[0].replace("'", "''") + "'" for one in call.args]
        yield _Text(f"SELECT {name}({', '.join(quoted)})", call.lineno, True)
