"""Build each statement that writes or lists rows once; its values are parameters."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Insert,
    Select,
    String,
    Update,
    bindparam,
    delete,
    insert,
    inspect,
    update,
)
from sqlalchemy.orm import Mapper
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.dml import ReturningDelete
from sqlalchemy.util import LRUCache

from kernel.database.statements import ID, Condition, Model, columns_of, is_listed, primary_key_of, version_of

# A parameter with a name that no column has.
VERSIONS = "kernel__versions"
# More shapes than the lists and filters of a large application have.
_SHAPES = 1000


@cache
def insertion(model: Model, schema: type[BaseModel]) -> Insert:
    """Return an INSERT of one row with the columns that are given as parameters."""
    table: Any = inspect(model).local_table
    return insert(table).returning(*columns_of(model, schema))


@cache
def change(model: Model, schema: type[BaseModel], only: Condition = None, *, of_version: bool) -> Update:
    """Return an UPDATE of the given columns in the row ID, if the row has one of VERSIONS."""
    table: Any = inspect(model).local_table
    statement = update(table).where(*_row(model, only, of_version=of_version)).returning(*columns_of(model, schema))
    version = version_of(model)
    return statement if version is None else statement.values({version.key: version + 1})


@cache
def deletion(model: Model, only: Condition = None, *, of_version: bool) -> ReturningDelete[Any]:
    """Return a DELETE of the row ID, if the row has one of VERSIONS; it returns the key."""
    table: Any = inspect(model).local_table
    return delete(table).where(*_row(model, only, of_version=of_version)).returning(primary_key_of(model))


def _row(model: Model, only: Condition, *, of_version: bool) -> list[ColumnElement[bool]]:
    key, version = primary_key_of(model), version_of(model)
    conditions = [key == bindparam(ID, type_=key.type)] + ([] if only is None else [only])
    if of_version and version is not None:
        conditions.append(is_listed(version, bindparam(VERSIONS, type_=String())))
    return conditions


@cache
def is_one_table(model: Model) -> bool:
    """Return whether the model is mapped to one table without inheritance, so that the ORM adds nothing to a write."""
    mapper: Mapper[Any] = inspect(model)
    return not mapper.inherits and mapper.polymorphic_on is None and len(mapper.tables) == 1


@cache
def _column_keys(model: Model) -> Mapping[str, str]:
    return {name: attribute.columns[0].key for name, attribute in inspect(model).column_attrs.items()}


def parameters_of(model: Model, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return values by attribute as parameters by column. Raises TypeError for a name that is no column's.

    Return None where the ORM has to write them: one is an expression, or the model has several tables.
    """
    if not is_one_table(model):
        return None
    keys = _column_keys(model)
    parameters = {}
    for name, value in values.items():
        if name not in keys:
            raise TypeError(f"{model.__name__} has no column {name!r}")
        if hasattr(value, "__clause_element__") or isinstance(value, ClauseElement):
            return None
        parameters[keys[name]] = value
    return parameters


@dataclass(frozen=True, slots=True)
class _Shape:
    statement: Select[Any]
    # Its values, each with its position among those of the conditions; the statement itself has none.
    values: Sequence[tuple[BindParameter[Any], int | None]]


_shapes: Any = LRUCache(_SHAPES)


def shaped(
    key: Hashable, conditions: Sequence[ColumnElement[bool]], build: Callable[[], Select[Any]]
) -> tuple[Select[Any], list[BindParameter[Any]]] | None:
    """Return the statement of `build` for conditions of this shape, and their values; None if that is impossible.

    Conditions of one shape differ only in their values; SQLAlchemy's own cache keys separate shapes from values.
    Building a statement from its clauses takes longer than running it.
    """
    keys = [condition._generate_cache_key() for condition in conditions]
    values: list[BindParameter[Any]] = []
    for one in keys:
        if one is None or one.params:
            return None
        values.extend(one.bindparams)
    if len({id(value) for value in values}) < len(values):
        return None  # Two conditions share a value; other conditions of this shape may not.
    full = (key, *(one.key for one in keys if one is not None))
    shape = _shapes.get(full)
    if shape is None:
        statement = build()
        own = statement._generate_cache_key()
        places = {id(value): place for place, value in enumerate(values)}
        if own is None or not places.keys() <= {id(value) for value in own.bindparams}:
            return None
        shape = _shapes[full] = _Shape(statement, [(value, places.get(id(value))) for value in own.bindparams])
    return shape.statement, [own if place is None else values[place] for own, place in shape.values]
