"""A schema whose fields may name relationships of the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from operator import eq
from typing import Any, Self, get_args, get_origin

from pydantic import BaseModel
from sqlalchemy import BinaryExpression, inspect
from sqlalchemy.orm import InstrumentedAttribute, RelationshipProperty

from kernel.database import BaseRepository
from kernel.database.statements import Model, RowSchema, column_of, columns_of
from kernel.ext.membership import any_of


class RelatedSchema(RowSchema):
    """Derive a schema from this to read related rows: `lines: list[LineOut]`, `customer: CustomerOut | None`.

    Each relationship is read by one more statement for all rows together. It must compare one pair of columns.
    """

    @classmethod
    def columns_from(cls, model: Model) -> tuple[InstrumentedAttribute[Any], ...]:
        """Return the columns that fields name, then those that the relationships need."""
        names, relations = _layout_of(model, cls)
        return (*(column_of(model, name, cls) for name in names), *(relation.local for relation in relations))

    @classmethod
    async def from_rows(cls, repository: BaseRepository[Any, Any], rows: Sequence[Sequence[Any]]) -> list[Self]:
        """Return a schema for each row."""
        model: Model = repository.model
        names, relations = _layout_of(model, cls)
        found: list[dict[str, Any]] = [dict(zip(names, row, strict=False)) for row in rows]
        for place, relation in enumerate(relations, len(names)):
            related = await _related(repository, relation, {row[place] for row in rows} - {None})
            for values, row in zip(found, rows, strict=True):
                own = related.get(row[place], [])
                values[relation.field] = own if relation.is_list else next(iter(own), None)
        return [cls.model_validate(values, by_name=True) for values in found]


@dataclass(frozen=True, slots=True)
class _Relation:
    """A field that is read from related rows."""

    field: str
    model: Model
    schema: type[BaseModel]
    is_list: bool
    # The column of the row itself, and the one of the related rows that has the same value.
    local: InstrumentedAttribute[Any]
    remote: InstrumentedAttribute[Any]
    order: tuple[Any, ...]


@cache
def _layout_of(model: Model, schema: type[BaseModel]) -> tuple[tuple[str, ...], tuple[_Relation, ...]]:
    """Return the fields of a schema that are columns, and those that are relations. Raises TypeError."""
    relationships = inspect(model).relationships
    names = tuple(name for name in schema.model_fields if name not in relationships)
    related = (relationships[name] for name in schema.model_fields if name in relationships)
    return names, tuple(_relation(model, schema, one) for one in related)


def _relation(model: Model, schema: type[BaseModel], relationship: RelationshipProperty[Any]) -> _Relation:
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
    return _Relation(
        field=relationship.key,
        model=related.class_,
        schema=schemas[0],
        is_list=bool(relationship.uselist),
        local=inspect(model).get_property_by_column(local).class_attribute,
        remote=related.get_property_by_column(remote).class_attribute,
        order=(*(relationship.order_by or ()), *related.primary_key),
    )


async def _related(
    repository: BaseRepository[Any, Any], relation: _Relation, keys: set[Any]
) -> dict[Any, list[BaseModel]]:
    """Return the related rows of all `keys`, as schemas by key."""
    others = BaseRepository[Any, Any](relation.model, repository.session)
    columns = (*columns_of(relation.model, relation.schema), relation.remote)
    statement = others.select().where(any_of(relation.remote, keys)).order_by(*relation.order)
    rows = await others.rows(statement.with_only_columns(*columns))
    related: dict[Any, list[BaseModel]] = {}
    for row, schema in zip(rows, await others.schemas(relation.schema, rows), strict=True):
        related.setdefault(row[len(columns) - 1], []).append(schema)
    return related
