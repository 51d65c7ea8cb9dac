"""The statements that every table needs, built once for each table and schema; their values come as parameters."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import eq
from typing import Any, cast, get_args, get_origin

from pydantic import BaseModel
from sqlalchemy import (
    BinaryExpression,
    BindParameter,
    ColumnElement,
    Insert,
    Integer,
    Select,
    Update,
    bindparam,
    delete,
    insert,
    inspect,
    literal,
    select,
    update,
)
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Mapper, RelationshipProperty
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.dml import ReturningDelete
from sqlalchemy.sql.visitors import replacement_traverse
from sqlalchemy.util import LRUCache

from kernel.database.membership import ListOf, of_parameter

# Parameters, by names that no column has.
ID = "kernel__id"
VERSIONS = "kernel__versions"
LIMIT = bindparam("kernel__limit", type_=Integer)
OFFSET = bindparam("kernel__offset", type_=Integer)

# As many shapes as the largest application has lists with their filters, several times over.
_SHAPES = 1000

Model = type[DeclarativeBase]
Condition = ColumnElement[bool] | None


@cache
def primary_key_of(model: Model) -> InstrumentedAttribute[Any]:
    """The attribute that is the primary key. Raises TypeError for a key of several columns."""
    columns = inspect(model).primary_key
    if len(columns) != 1:
        raise TypeError(f"{model.__name__} has a primary key of {len(columns)} columns; BaseRepository needs one")
    return cast(InstrumentedAttribute[Any], inspect(model).get_property_by_column(columns[0]).class_attribute)


@cache
def version_of(model: Model) -> InstrumentedAttribute[int] | None:
    """The attribute that counts changes (kernel.database.Versioned), if there is one."""
    column = inspect(model).version_id_col
    if column is None:
        return None
    return cast(InstrumentedAttribute[int], inspect(model).get_property_by_column(column).class_attribute)


@cache
def changes_itself(model: Model) -> bool:
    """Whether an UPDATE that is given no values still sets some: the next version, or the time of the change."""
    return version_of(model) is not None or any(column.onupdate is not None for column in inspect(model).columns)


@dataclass(frozen=True, slots=True)
class Relation:
    """A field of a schema that is read from related rows, by one more statement for all rows together."""

    field: str
    model: Model
    schema: type[BaseModel]
    is_list: bool
    # The column of the row itself, and the one of the related rows that has the same value.
    local: InstrumentedAttribute[Any]
    remote: InstrumentedAttribute[Any]
    order: tuple[Any, ...]


@cache
def layout_of(model: Model, schema: type[BaseModel]) -> tuple[tuple[str, ...], tuple[Relation, ...]]:
    """The fields of a schema that are columns, and those that are relations.

    Raises TypeError for a relation that no single column makes.
    """
    relationships = inspect(model).relationships
    names = tuple(name for name in schema.model_fields if name not in relationships)
    related = (relationships[name] for name in schema.model_fields if name in relationships)
    return names, tuple(_relation(model, schema, one) for one in related)


def _relation(model: Model, schema: type[BaseModel], relationship: RelationshipProperty[Any]) -> Relation:
    where = f"{schema.__name__}.{relationship.key}"
    annotation = schema.model_fields[relationship.key].annotation
    schemas = [
        one for one in (annotation, *get_args(annotation)) if isinstance(one, type) and issubclass(one, BaseModel)
    ]
    if len(schemas) != 1 or bool(relationship.uselist) != (get_origin(annotation) in {list, tuple, Sequence}):
        form = "list[SCHEMA]" if relationship.uselist else "SCHEMA | None"
        raise TypeError(f"{where} is a relation of {model.__name__}: annotate it as {form}")
    join = relationship.primaryjoin
    is_plain = isinstance(join, BinaryExpression) and join.operator is eq and relationship.secondary is None
    if not is_plain:
        raise TypeError(f"{where} is a relation by more than one pair of equal columns: read it in a query of its own")
    [(local, remote)] = relationship.local_remote_pairs or ()
    related = relationship.mapper
    return Relation(
        field=relationship.key,
        model=related.class_,
        schema=schemas[0],
        is_list=bool(relationship.uselist),
        local=inspect(model).get_property_by_column(local).class_attribute,
        remote=related.get_property_by_column(remote).class_attribute,
        order=(*(relationship.order_by or ()), *related.primary_key),
    )


@cache
def columns_of(model: Model, schema: type[BaseModel]) -> tuple[InstrumentedAttribute[Any], ...]:
    """The columns that a schema's fields name, then those that its relations need.

    Raises TypeError for a field that is neither a column nor a relation.
    """
    columns = inspect(model).column_attrs
    names, relations = layout_of(model, schema)
    unknown = [name for name in names if name not in columns]
    if unknown:
        raise TypeError(f"{schema.__name__} cannot be read from {model.__name__}: it has no column {unknown[0]}")
    return (*(columns[name].class_attribute for name in names), *(relation.local for relation in relations))


@cache
def by_id(model: Model, schema: type[BaseModel], only: Condition = None) -> Select[Any]:
    """The row whose primary key is the parameter ID, if it is one of `only` those."""
    return select(*columns_of(model, schema)).where(*_row(model, only, of_version=False))


@cache
def insertion(model: Model, schema: type[BaseModel]) -> Insert:
    """One row, of the columns that are given as parameters."""
    table: Any = inspect(model).local_table
    return insert(table).returning(*columns_of(model, schema))


@cache
def change(model: Model, schema: type[BaseModel], only: Condition = None, *, of_version: bool) -> Update:
    """The columns that are given as parameters, in the row ID, if it has one of VERSIONS."""
    table: Any = inspect(model).local_table
    statement = update(table).where(*_row(model, only, of_version=of_version)).returning(*columns_of(model, schema))
    version = version_of(model)
    return statement if version is None else statement.values({version.key: version + 1})


@cache
def deletion(model: Model, only: Condition = None, *, of_version: bool) -> ReturningDelete[Any]:
    """The row ID, if it has one of VERSIONS; gives its key."""
    table: Any = inspect(model).local_table
    return delete(table).where(*_row(model, only, of_version=of_version)).returning(primary_key_of(model))


def _row(model: Model, only: Condition, *, of_version: bool) -> list[ColumnElement[bool]]:
    key, version = primary_key_of(model), version_of(model)
    conditions = [key == bindparam(ID, type_=key.type)] + ([] if only is None else [only])
    if of_version and version is not None:
        conditions.append(of_parameter(version, bindparam(VERSIONS, type_=ListOf(version.type))))
    return conditions


def with_values(condition: ColumnElement[bool], values: Mapping[str, Any]) -> ColumnElement[bool]:
    """The condition with these values of its parameters in it."""

    def replace(element: Any, **_: Any) -> Any:
        is_given = isinstance(element, BindParameter) and element.key in values
        return literal(values[element.key], element.type) if is_given else None

    return replacement_traverse(condition, {}, replace)


@cache
def is_one_table(model: Model) -> bool:
    """Whether its rows are in one table and mean one class, so that the ORM has nothing to add to what is written."""
    mapper: Mapper[Any] = inspect(model)
    return not mapper.inherits and mapper.polymorphic_on is None and len(mapper.tables) == 1


@cache
def _column_keys(model: Model) -> Mapping[str, str]:
    return {name: attribute.columns[0].key for name, attribute in inspect(model).column_attrs.items()}


def as_parameters(model: Model, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Values by attribute as parameters by column; None where one is an expression, which no parameter can be.

    Raises TypeError for a name that is no column's.
    """
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
    # Its values, each with its place among those of the conditions; the statement's own have none.
    values: Sequence[tuple[BindParameter[Any], int | None]]


_shapes: Any = LRUCache(_SHAPES)


def shaped(
    key: Hashable, conditions: Sequence[ColumnElement[bool]], build: Callable[[], Select[Any]]
) -> tuple[Select[Any], list[BindParameter[Any]]] | None:
    """The statement that `build` once made for such conditions, and the values that these have; None if there is none.

    Conditions of one shape differ in their values only, and SQLAlchemy's own cache keys tell shapes from values. To
    build a statement from its clauses takes longer than to run it.
    """
    keys = [condition._generate_cache_key() for condition in conditions]
    values: list[BindParameter[Any]] = []
    for one in keys:
        if one is None or one.params:
            return None
        values.extend(one.bindparams)
    if len({id(value) for value in values}) < len(values):
        return None  # two conditions share a value; others of their shape need not
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
