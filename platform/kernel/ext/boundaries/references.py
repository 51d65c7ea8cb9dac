"""Find names of other modules' tables in calls of SQLAlchemy and Alembic that run after the import.

Foreign keys, relationships and tables of models are read from their metadata instead: see
`kernel.ext.boundaries.metadata`.
"""

import ast
from collections.abc import Iterator

from kernel.ext.boundaries.callees import ANY, called, callee
from kernel.ext.boundaries.owned import Owned
from kernel.ext.boundaries.project import Project
from kernel.ext.boundaries.sources import Source, argument, constant, line_of
from kernel.ext.boundaries.strings import Strings

_SCHEMA_KEYWORDS = frozenset({"schema", "referent_schema", "source_schema", "schema_name"})
_DATABASE = ("sqlalchemy.", "alembic.")

# Methods of inspectors, metadata and batches: the positions of the table and of the schema in the arguments.
_INSPECTING: dict[str, tuple[int | None, int | None]] = {
    **dict.fromkeys(
        (
            "get_columns", "get_pk_constraint", "get_foreign_keys", "get_indexes", "get_unique_constraints",
            "get_check_constraints", "get_table_comment", "get_table_options", "has_table",
        ),
        (0, 1),
    ),
    "has_index": (0, 2),
    "has_sequence": (None, 1),
    **dict.fromkeys(
        (
            "get_table_names", "get_view_names", "get_materialized_view_names", "get_sequence_names",
            "get_temp_table_names", "get_multi_columns", "get_multi_foreign_keys", "get_multi_indexes",
            "get_multi_pk_constraint", "get_sorted_table_and_fkc_names", "get_enums", "has_schema",
        ),
        (None, 0),
    ),
    "get_view_definition": (0, 1),
    "reflect": (None, 1),
    "to_metadata": (None, 1),
    "prepare": (None, None),
}  # fmt: skip
# Operations of Alembic: the positions of tables in the arguments. Constraints and indexes have their name first.
_OPERATIONS: dict[str, slice] = {
    **dict.fromkeys(
        (
            "add_column", "alter_column", "batch_alter_table", "bulk_insert", "create_table", "create_table_comment",
            "drop_column", "drop_table", "drop_table_comment",
        ),
        slice(0, 1),
    ),
    "rename_table": slice(0, 2),
    "create_foreign_key": slice(1, 3),
    **dict.fromkeys(
        (
            "create_check_constraint", "create_exclude_constraint", "create_index", "create_primary_key",
            "create_unique_constraint", "drop_constraint", "drop_index",
        ),
        slice(1, 2),
    ),
}  # fmt: skip
_OF_COLUMNS = frozenset({"add_column", "alter_column", "drop_column"})
_COLUMN_KEYWORDS = frozenset({"column", "column_name"})
_TABLE_KEYWORDS = frozenset({"table_name", "source_table", "referent_table", "old_table_name", "new_table_name"})

_REFLECTED = "This reads its tables from the database at run time, where no check sees them."

# The line, the other module, and the named part; or the line, None, and a sentence.
Reference = tuple[int, str | None, str]


def references(project: Project, owned: Owned, module: str, source: Source, strings: Strings) -> Iterator[Reference]:
    """Return what a file of `module` names of other modules."""
    seen = _References(project, owned, module, source, strings)
    for call, name in called(project, source):
        for other, what in seen.of_call(call, name):
            yield call.lineno, other, what
    for node in source.nodes:
        for other, what in seen.of_node(node):
            yield line_of(node), other, what


class _References:
    def __init__(self, project: Project, owned: Owned, module: str, source: Source, strings: Strings) -> None:
        self._project = project
        self._owned = owned
        self._module = module
        self._source = source
        self._strings = strings

    def of_call(self, call: ast.Call, name: str) -> Iterator[tuple[str | None, str]]:
        home, _, last = name.rpartition(".")
        if name.startswith(_DATABASE):
            yield from self._of_library(call, home, last)
        if home.startswith(ANY) and (last in _INSPECTING or last in _OPERATIONS):
            yield from self._options(call)
        if home.startswith(ANY) and last in _INSPECTING:
            table, schema = _INSPECTING[last]
            for place, keyword, of in ((table, "table_name", self._tables), (schema, "schema", self._schemas)):
                yield from of(argument(call, keyword, place)) if place is not None else ()
            for one in self._source.elements(argument(call, "only", 3) or call) if last == "reflect" else ():
                yield from self._tables(one)
        if last in _OPERATIONS and (home == "alembic.op" or self._source.path.startswith("migrations/")):
            for node in _named_tables(call, last):
                yield from self._tables(node)

    def _of_library(self, call: ast.Call, home: str, last: str) -> Iterator[tuple[str | None, str]]:
        yield from self._options(call)
        match last:
            case "CreateSchema" | "DropSchema":
                yield from self._schemas(argument(call, "name", 0))
            case "Table" | "table" | "TableClause":
                schemas = self._strings.of(argument(call, "schema"))
                for name in () if schemas else self._strings.of(argument(call, "name", 0)):
                    yield from self._table(name)
            case "listen" | "listens_for" if call.args and home == "sqlalchemy.event":
                target = callee(self._project, self._source, call.args[0])
                if target.startswith(("sqlalchemy.", "kernel.")):
                    yield None, f"This listens to {target}, which all modules share, and so sees rows of other modules."
            case "automap_base":
                yield None, _REFLECTED
        # `func.right.do_it()` is a function in the schema `right`; `func.right(...)` is a built-in function.
        if home.startswith("sqlalchemy.func."):
            yield from self._schemas(ast.Constant(home.rpartition(".")[2]))

    def of_node(self, node: ast.AST) -> Iterator[tuple[str | None, str]]:
        match node:
            case ast.keyword(arg="schema_translate_map") | ast.Constant(value="schema_translate_map"):
                yield None, "This translates schemas, which only the kernel may do."
            case ast.ClassDef(bases=bases) if any(
                (self._source.named(base) or "").endswith(".DeferredReflection") for base in bases
            ):
                yield None, _REFLECTED
            case (
                ast.Subscript(value=ast.Attribute(attr="tables"))
                | ast.Call(func=ast.Attribute(value=ast.Attribute(attr="tables"), attr="get"), args=[_, *_])
            ):
                key = node.slice if isinstance(node, ast.Subscript) else node.args[0]
                for text in self._strings.of(key):
                    *schema, name = text.split(".")
                    yield from self._table(name, schema[-1] if schema else None)

    def _options(self, call: ast.Call) -> Iterator[tuple[str | None, str]]:
        """Return the schemas in the keyword arguments of a call."""
        for one in call.keywords:
            if one.arg in _SCHEMA_KEYWORDS:
                yield from self._schemas(one.value)
            elif one.arg is None:
                options = getattr(self._source.definitions.get(getattr(one.value, "id", "")), "value", one.value)
                for key, value in zip(getattr(options, "keys", ()), getattr(options, "values", ()), strict=False):
                    yield from self._schemas(value) if constant(key) in _SCHEMA_KEYWORDS else ()

    def _tables(self, node: ast.expr | None) -> Iterator[tuple[str, str]]:
        for text in self._strings.of(node):
            yield from self._table(text)

    def _table(self, name: str, schema: str | None = None) -> Iterator[tuple[str, str]]:
        if other := self._owned.owner(self._module, name, schema):
            yield other, f"the table {name}"

    def _schemas(self, node: ast.expr | None) -> Iterator[tuple[str, str]]:
        for schema in self._strings.of(node):
            if other := self._owned.owner(self._module, None, schema):
                yield other, f"the schema {schema}"


def _named_tables(call: ast.Call, name: str) -> list[ast.expr]:
    """Return the arguments of an operation that are tables."""
    named = [one.value for one in call.keywords if one.arg in _TABLE_KEYWORDS]
    if name in _OF_COLUMNS and len(call.args) == 1 and not _COLUMN_KEYWORDS & {one.arg for one in call.keywords}:
        return named  # of a batch, which has its table: the first argument is a column
    return [*call.args[_OPERATIONS[name]], *named]
