"""Properties of models, and of the schemas that are read from them, for repositories."""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel
from sqlalchemy import BindParameter, ColumnElement, Select, String, bindparam, inspect, literal, select
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute
from sqlalchemy.sql.visitors import replacement_traverse

if TYPE_CHECKING:
    from kernel.database.repository import BaseRepository

# Parameters, by names that no column has.
ID = "kernel__id"

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


class RowSchema(BaseModel):
    """A schema that is made of more than the columns that its fields name. An extension derives from it."""

    @classmethod
    def columns_from(cls, model: Model) -> tuple[InstrumentedAttribute[Any], ...]:
        """Return the columns that a repository selects for this schema. Raises TypeError."""
        raise NotImplementedError

    @classmethod
    async def from_rows(
        cls, repository: "BaseRepository[Any, Any]", rows: Sequence[Sequence[Any]]
    ) -> "Sequence[RowSchema]":
        """Return a schema for each row; a row begins with the columns of `columns_from`."""
        raise NotImplementedError


@cache
def fields_of(schema: type[BaseModel]) -> tuple[str, ...] | None:
    """The fields of a schema, each a column; None if the schema makes itself of rows."""
    return None if issubclass(schema, RowSchema) else tuple(schema.model_fields)


@cache
def columns_of(model: Model, schema: type[BaseModel]) -> tuple[InstrumentedAttribute[Any], ...]:
    """The columns to select for a schema. Raises TypeError for a field that is no column."""
    if issubclass(schema, RowSchema):
        return schema.columns_from(model)
    return tuple(column_of(model, name, schema) for name in schema.model_fields)


def column_of(model: Model, name: str, schema: type[BaseModel]) -> InstrumentedAttribute[Any]:
    """The column that a field of a schema names. Raises TypeError."""
    columns = inspect(model).column_attrs
    if name not in columns:
        raise TypeError(f"{schema.__name__} cannot be read from {model.__name__}: it has no column {name}")
    return cast(InstrumentedAttribute[Any], columns[name].class_attribute)


@cache
def by_id(model: Model, schema: type[BaseModel], only: Condition = None) -> Select[Any]:
    """The row whose primary key is the parameter ID, if it is one of `only` those."""
    key = primary_key_of(model)
    statement = select(*columns_of(model, schema)).where(key == bindparam(ID, type_=key.type))
    return statement if only is None else statement.where(only)


def listed(versions: Collection[int]) -> str:
    """Return versions as one parameter, so that their number does not change the statement."""
    return f",{','.join(map(str, versions))},"


def is_listed(version: InstrumentedAttribute[int], versions: ColumnElement[str]) -> ColumnElement[bool]:
    """Return the condition that a row has one of the `listed` versions."""
    return versions.contains(literal(",") + version.expression.cast(String) + literal(","))


def with_values(condition: ColumnElement[bool], values: Mapping[str, Any]) -> ColumnElement[bool]:
    """The condition with these values of its parameters in it."""

    def replace(element: Any, **_: Any) -> Any:
        is_given = isinstance(element, BindParameter) and element.key in values
        return literal(values[element.key], element.type) if is_given else None

    return replacement_traverse(condition, {}, replace)
