"""The rows of many primary keys."""

from collections.abc import Iterable
from typing import overload

from kernel.database.repository import BaseRepository, IDType, ModelType, Schema
from kernel.database.statements import primary_key_of
from kernel.ext.membership.any_of import any_of


@overload
async def get_many(repository: BaseRepository[ModelType, IDType], ids: Iterable[IDType]) -> list[ModelType]: ...
@overload
async def get_many(
    repository: BaseRepository[ModelType, IDType], ids: Iterable[IDType], *, into: type[Schema]
) -> list[Schema]: ...
async def get_many(
    repository: BaseRepository[ModelType, IDType], ids: Iterable[IDType], *, into: type[Schema] | None = None
) -> list[ModelType] | list[Schema]:
    """Return those rows of `ids` that exist, ordered by primary key. The ids are one parameter of one statement."""
    key = primary_key_of(repository.model)
    statement = repository.select().where(any_of(key, ids)).order_by(None).order_by(key)
    return await (repository.all(statement) if into is None else repository.all(statement, into=into))
