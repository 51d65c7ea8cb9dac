"""What a file names of other modules' tables through SQLAlchemy: foreign keys, relationships, tables and schemas."""

import ast
import re
from collections.abc import Iterator

from walls.owned import Owned
from walls.project import module_of
from walls.sources import Source, argument, constant, last_name, line_of
from walls.strings import Strings

_SCHEMA_KEYWORDS = frozenset({"schema", "referent_schema", "source_schema", "schema_name"})

# Methods of inspectors, batches and metadata, whatever they are called on.
_OF_SCHEMAS = frozenset(
    {"get_columns", "get_table_names", "get_indexes", "get_foreign_keys", "has_table", "reflect", "to_metadata",
     "create_table", "add_column", "create_foreign_key", "batch_alter_table", "drop_table", "alter_column"}
)  # fmt: skip
_TRANSLATED = "schema_translate_map"
_DATABASE = ("sqlalchemy", "alembic")
_JOINS = frozenset({"primaryjoin", "secondaryjoin", "foreign_keys", "remote_side", "order_by"})

# The line, the other module, and what is named of it.
Reference = tuple[int, str, str]


def references(owned: Owned, module: str, source: Source, strings: Strings) -> Iterator[Reference]:
    """Whatever a file of `module` names of others."""
    seen = _References(owned, module, source, strings)
    for call in source.calls:
        for other, what in seen.of_call(call):
            yield call.lineno, other, what
    for node in source.nodes:
        for other, what in seen.of_node(node):
            yield line_of(node), other, what


class _References:
    def __init__(self, owned: Owned, module: str, source: Source, strings: Strings) -> None:
        self._owned = owned
        self._module = module
        self._source = source
        self._strings = strings

    def of_call(self, call: ast.Call) -> Iterator[tuple[str, str]]:  # one case for each kind of call
        match last_name(call.func):
            case "ForeignKey":
                yield from self._column(argument(call, "column", 0))
            case "ForeignKeyConstraint":
                for target in getattr(argument(call, "refcolumns", 1), "elts", ()):
                    yield from self._column(target)
            case "relationship" | "Relationship":
                for node in (argument(call, "argument", 0), argument(call, "secondary", 1)):
                    yield from self._related(node.body if isinstance(node, ast.Lambda) else node)
                yield from self._joined(call)
            case "CreateSchema" | "DropSchema" if (node := argument(call, "name", 0)) is not None:
                yield from self._schemas(node)
            case "Table" | "table" if (self._source.named(call.func) or "").startswith("sqlalchemy"):
                schema = next(iter(self._strings.of(argument(call, "schema"))), None)
                for name in self._strings.of(argument(call, "name", 0)):
                    yield from self._table(name, schema)
                return  # its schema is said
        yield from self._options_of(call)

    def _options_of(self, call: ast.Call) -> Iterator[tuple[str, str]]:
        """The schemas among its keywords. Others have a `schema`, too: a call of pydantic, a line of a log."""
        if (self._source.named(call.func) or "").startswith(_DATABASE) or last_name(call.func) in _OF_SCHEMAS:
            for one in call.keywords:
                if one.arg in _SCHEMA_KEYWORDS:
                    yield from self._schemas(one.value)
                elif one.arg is None:
                    yield from self._in_options(one.value)

    def of_node(self, node: ast.AST) -> Iterator[tuple[str, str]]:
        match node:
            case ast.AnnAssign(value=ast.Call(func=func)) if last_name(func) == "relationship":
                for name in _names_in(node.annotation):
                    yield from self._entity(name)
            case (
                ast.Assign(targets=[ast.Name(id="__table_args__")], value=value)
                | ast.AnnAssign(target=ast.Name(id="__table_args__"), value=ast.expr() as value)
            ):
                yield from self._in_options(value)
            case ast.FunctionDef(name="__table_args__", body=[*_, ast.Return(value=ast.expr() as value)]):
                yield from self._in_options(value)
            case ast.Dict(keys=keys, values=values):  # execution options
                for value in (value for key, value in zip(keys, values, strict=True) if constant(key) == _TRANSLATED):
                    yield from self._translated(value)
            case ast.Subscript(value=ast.Attribute(value=metadata, attr="tables")) if last_name(metadata) == "metadata":
                for text in self._strings.of(node.slice):
                    yield from self._column(ast.Constant(f"{text}.*"))
            case ast.keyword(arg=name, value=value) if name == _TRANSLATED:
                yield from self._translated(value)

    def _in_options(self, node: ast.expr) -> Iterator[tuple[str, str]]:
        """The `schema` of a table's options: elsewhere a key of that name is anything."""
        node = getattr(self._source.definitions.get(getattr(node, "id", "")), "value", node)
        for each in ast.walk(node):
            if isinstance(each, ast.Dict):
                for key, value in zip(each.keys, each.values, strict=True):
                    yield from self._schemas(value) if constant(key) == "schema" else ()

    def _joined(self, call: ast.Call) -> Iterator[tuple[str, str]]:
        """The entities in the conditions of a relationship that are texts."""
        for value in (one.value for one in call.keywords if one.arg in _JOINS):
            for name in (name for text in self._strings.of(value) for name in re.findall(r"\b(\w+)\.\w+", text)):
                yield from self._entity(name)

    def _column(self, node: ast.expr | None) -> Iterator[tuple[str, str]]:
        for text in self._strings.of(node):
            *path, _ = text.split(".")
            if path:
                yield from self._table(path[-1], path[-2] if len(path) > 1 else None)

    def _related(self, node: ast.expr | None) -> Iterator[tuple[str, str]]:
        for text in self._strings.of(node):
            yield from self._entity(text)
            yield from self._table(text, None)

    def _table(self, name: str, schema: str | None) -> Iterator[tuple[str, str]]:
        if other := self._owned.owner(self._module, name, schema):
            yield other, f"the table {name}"

    def _entity(self, text: str) -> Iterator[tuple[str, str]]:
        name = text.rpartition(".")[2]
        own = self._owned.entities.get(self._module, set())
        for other, entities in self._owned.entities.items():
            if other != self._module and name in entities and name not in own and module_of(text) != self._module:
                yield other, f"the entity {name}"

    def _schemas(self, node: ast.expr) -> Iterator[tuple[str, str]]:
        for schema in self._strings.of(node):
            if other := self._owned.owner(self._module, None, schema):
                yield other, f"the schema {schema}"

    def _translated(self, node: ast.expr) -> Iterator[tuple[str, str]]:
        for value in node.values if isinstance(node, ast.Dict) else ():
            yield from self._schemas(value)


def _names_in(annotation: ast.AST) -> Iterator[str]:
    """The names in an annotation, also in one that is a string."""
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name):
            yield node.id
        elif (text := constant(node)) is not None:
            yield from re.findall(r"[\w.]+", text)
