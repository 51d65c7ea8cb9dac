"""A column that has one of many values: one parameter, however many values there are."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Dialect, Integer, LargeBinary, TypeDecorator, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine, UserDefinedType


def any_of(column: ColumnElement[Any] | InstrumentedAttribute[Any], values: Iterable[Any]) -> ColumnElement[bool]:
    """Return the condition that `column` has one of `values`.

    Use it instead of `column.in_(values)` where a caller chooses how many values there are. `in_` has one parameter
    for each: PostgreSQL takes 32,767 of them, and keeps a prepared statement for every number that occurs.
    """
    return AnyOf(column, bindparam(None, list(values), type_=ListOf(column.type), unique=True))


class ListOf(UserDefinedType[list[Any]]):
    """A list of values of another type: an array on PostgreSQL, JSON on SQLite.

    PostgreSQL infers the array's type from the column. A cast would shorten text to the length of a VARCHAR column,
    and then find rows that do not have the value. Integers travel as text, because asyncpg sends three statements
    before the first integer array of each connection.
    """

    cache_ok = True

    def __init__(self, item: TypeEngine[Any]) -> None:
        self.item = item

    def bind_processor(self, dialect: Dialect) -> Callable[[list[Any] | None], Any] | None:
        convert = self.item.dialect_impl(dialect).bind_processor(dialect)
        if dialect.name != "postgresql":
            return lambda values: json.dumps([convert(v) if convert else v for v in values or ()], default=_hexadecimal)
        if isinstance(_stored(self.item, dialect), Integer):
            return lambda values: ",".join(format(convert(v) if convert else v, "d") for v in values or ())
        return convert and (lambda values: [convert(value) for value in values or ()])


class AnyOf(FunctionElement[bool]):
    """The condition that a column has one of the values of a parameter with the type `ListOf(column.type)`."""

    name = "any_of"
    inherit_cache = True
    type = Boolean()


@compiles(AnyOf)
def _compiled(element: AnyOf, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(clause, **options) for clause in element.clauses)
    stored = _stored(next(iter(element.clauses)).type, compiler.dialect)
    if compiler.dialect.name == "postgresql":
        if isinstance(stored, Integer):
            values = f"string_to_array({values}, ',')::BIGINT[]"
        return f"{column} = ANY ({values})"
    if isinstance(stored, LargeBinary):
        column = f"hex({column})"  # JSON has no bytes
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608  # both are SQLAlchemy's own text


def _stored(type_: TypeEngine[Any], dialect: Dialect) -> TypeEngine[Any]:
    found = type_.dialect_impl(dialect)
    while isinstance(found, TypeDecorator):
        found = found.impl_instance
    return found


def _hexadecimal(value: bytes) -> str:
    return bytes(value).hex().upper()
