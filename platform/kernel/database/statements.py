"""Properties of models, and of the schemas that are read from them, for repositories."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import eq
from typing import Any, cast, get_args, get_origin

from pydantic import BaseModel
from sqlalchemy import (
    BinaryExpression,
    BindParameter,
    ColumnElement,
    Integer,
    Select,
    bindparam,
    inspect,
    literal,
    select,
)
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, RelationshipProperty
from sqlalchemy.sql.visitors import replacement_traverse

# Parameters, by names that no column has.
ID = "kernel__id"
LIMIT = bindparam("kernel__limit", type_=Integer)
OFFSET = bindparam("kernel__offset", type_=Integer)

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
    """Return whether an UPDATE without values still sets some: the next version, or the time of the change."""
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
    key = primary_key_of(model)
    statement = select(*columns_of(model, schema)).where(key == bindparam(ID, type_=key.type))
    return statement if only is None else statement.where(only)


def with_values(condition: ColumnElement[bool], values: Mapping[str, Any]) -> ColumnElement[bool]:
    """The condition with these values of its parameters in it."""

    def replace(element: Any, **_: Any) -> Any:
        is_given = isinstance(element, BindParameter) and element.key in values
        return literal(values[element.key], element.type) if is_given else None

    return replacement_traverse(condition, {}, replace)
