"""The queries that every table needs. A module's repository derives from this and adds its own."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Generic, TypeVar, cast, overload

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Select, func, insert, inspect, literal_column, select, update
from sqlalchemy import delete as delete_from
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute

from kernel.database.errors import ReadOnlySession, StaleVersion
from kernel.database.paging import Page, PageRequest, Sort
from kernel.database.pool import is_read_only

ModelType = TypeVar("ModelType", bound=DeclarativeBase)
IDType = TypeVar("IDType")
Schema = TypeVar("Schema", bound=BaseModel)
Expected = int | Collection[int] | None
"""The version, or one of the versions, that a row must still have; None: any."""


class BaseRepository(Generic[ModelType, IDType]):
    """One table's queries, each a single statement.

    Where a method takes `into`, naming a pydantic schema makes it a projection: only the schema's columns are
    selected, and the rows become the schema without an entity in between. Without it the method returns entities,
    which are for changing things.

    Nothing here commits: whoever opened the session does.
    """

    def __init__(self, model: type[ModelType], session: AsyncSession) -> None:
        self.model = model
        self.session = session
        self._id: InstrumentedAttribute[IDType] = primary_key_of(model)

    # Reading

    @overload
    async def get_by_id(self, id_: IDType) -> ModelType | None: ...
    @overload
    async def get_by_id(self, id_: IDType, *, into: type[Schema]) -> Schema | None: ...
    async def get_by_id(self, id_: IDType, *, into: type[Schema] | None = None) -> ModelType | Schema | None:
        """The row with this primary key, or None."""
        statement = self.select().where(self._id == id_)
        return await (self.one(statement) if into is None else self.one(statement, into=into))

    @overload
    async def get_many(self, ids: Iterable[IDType]) -> list[ModelType]: ...
    @overload
    async def get_many(self, ids: Iterable[IDType], *, into: type[Schema]) -> list[Schema]: ...
    async def get_many(
        self, ids: Iterable[IDType], *, into: type[Schema] | None = None
    ) -> list[ModelType] | list[Schema]:
        """Those rows that exist of `ids`, by primary key."""
        statement = self.select().where(self._id.in_(list(ids))).order_by(self._id)
        return await (self.all(statement) if into is None else self.all(statement, into=into))

    @overload
    async def get_all(self, limit: int = ..., offset: int = ..., order: Sort | None = ...) -> list[ModelType]: ...
    @overload
    async def get_all(
        self, limit: int = ..., offset: int = ..., order: Sort | None = ..., *, into: type[Schema]
    ) -> list[Schema]: ...
    async def get_all(
        self, limit: int = 100, offset: int = 0, order: Sort | None = None, *, into: type[Schema] | None = None
    ) -> list[ModelType] | list[Schema]:
        """Rows in `order` (by primary key without one)."""
        sort = (order or Sort()).then(self._id)
        statement = self.select().order_by(*sort.order_by()).limit(limit).offset(offset)
        return await (self.all(statement) if into is None else self.all(statement, into=into))

    async def count(self, *where: ColumnElement[bool]) -> int:
        """How many rows fulfil all of `where`."""
        return await self.session.scalar(select(func.count()).select_from(self.model).where(*where)) or 0

    async def exists(self, id_: IDType) -> bool:
        """Whether there is a row with this primary key."""
        return await self.session.scalar(select(literal_column("1")).where(self._id == id_)) is not None

    async def page(
        self, request: PageRequest, into: type[Schema], *where: ColumnElement[bool], order: Sort | None = None
    ) -> Page[Schema]:
        """A page of the rows that fulfil all of `where`. Raises InvalidCursor.

        By offset the total comes in the same statement; only behind the last row it takes a second one.
        """
        sort = (order or Sort()).then(self._id)
        names = tuple(into.model_fields)
        unnamed = [column for column in sort.columns if column.key not in names]
        statement = select(*columns_of(self.model, into), *unnamed).where(*where).order_by(*sort.order_by())
        if request.cursor is None:
            total = select(func.count()).select_from(self.model).where(*where).scalar_subquery()
            statement = statement.add_columns(total).offset(request.offset)
        elif request.cursor:
            statement = statement.where(sort.after(request.cursor))
        rows = (await self.session.execute(statement.limit(request.limit + 1))).all()
        shown = rows[: request.limit]
        count: int | None = None
        if request.cursor is None:
            count = rows[0][-1] if rows else await self.count(*where) if request.offset else 0
        next_cursor = None
        if len(rows) > len(shown):
            last = dict(zip((*names, *(column.key for column in unnamed)), shown[-1], strict=False))
            next_cursor = sort.encode([last[column.key] for column in sort.columns])
        return Page(items=[_to_schema(into, names, row) for row in shown], total=count, next_cursor=next_cursor)

    # Writing

    @overload
    async def create(self, *, into: type[Schema], **values: Any) -> Schema: ...
    @overload
    async def create(self, **values: Any) -> ModelType: ...
    async def create(self, *, into: type[Schema] | None = None, **values: Any) -> ModelType | Schema:
        """Insert one row."""
        self._must_write()
        if into is None:
            entity = self.model(**values)
            self.session.add(entity)
            await self.session.flush()
            return entity
        statement = insert(self.model).values(**values).returning(*columns_of(self.model, into))
        return _to_schema(into, tuple(into.model_fields), (await self.session.execute(statement)).one())

    async def create_many(self, rows: Sequence[Mapping[str, Any]]) -> list[ModelType]:
        """Insert many rows: on PostgreSQL in one statement, on SQLite, which is in this process, in one each."""
        self._must_write()
        entities = [self.model(**row) for row in rows]
        self.session.add_all(entities)
        await self.session.flush()
        return entities

    @overload
    async def update(
        self, id_: IDType, *, into: type[Schema], expected_version: Expected = ..., **values: Any
    ) -> Schema | None: ...
    @overload
    async def update(self, id_: IDType, *, expected_version: Expected = ..., **values: Any) -> ModelType | None: ...
    async def update(
        self, id_: IDType, *, into: type[Schema] | None = None, expected_version: Expected = None, **values: Any
    ) -> ModelType | Schema | None:
        """Change columns of one row and return it, or None where there is no such row.

        A model with a version gets the next one. Raises StaleVersion where the row's is not `expected_version`.
        """
        self._must_write()
        version = self._version()
        if version is not None:
            values[version.key] = version + 1
        statement = update(self.model).where(self._id == id_, *self._unchanged(expected_version)).values(**values)
        changed: ModelType | Schema | None
        if into is None:
            fresh = {"populate_existing": True}
            changed = await self.session.scalar(statement.returning(self.model), execution_options=fresh)
        else:
            row = (await self.session.execute(statement.returning(*columns_of(self.model, into)))).one_or_none()
            changed = None if row is None else _to_schema(into, tuple(into.model_fields), row)
        if changed is None:
            await self._refuse_stale(id_, expected_version)
        return changed

    async def delete(self, id_: IDType, *, expected_version: Expected = None) -> bool:
        """Delete one row; whether there was one. Raises StaleVersion where its version is not `expected_version`."""
        self._must_write()
        statement = delete_from(self.model).where(self._id == id_, *self._unchanged(expected_version))
        deleted = await self.session.scalar(statement.returning(self._id)) is not None
        if not deleted:
            await self._refuse_stale(id_, expected_version)
        return deleted

    # For the queries of derived repositories

    def select(self) -> Select[ModelType]:
        """The base statement. Refine it with `where`, `join` and `order_by`, then run it with `one` or `all`."""
        return select(self.model)

    @overload
    async def one(self, statement: Select[ModelType]) -> ModelType | None: ...
    @overload
    async def one(self, statement: Select[ModelType], *, into: type[Schema]) -> Schema | None: ...
    async def one(self, statement: Select[ModelType], *, into: type[Schema] | None = None) -> ModelType | Schema | None:
        """The only row, or None. Raises sqlalchemy.exc.MultipleResultsFound."""
        if into is None:
            return (await self.session.execute(statement)).scalar_one_or_none()
        projection = statement.with_only_columns(*columns_of(self.model, into))
        row = (await self.session.execute(projection)).one_or_none()
        return None if row is None else _to_schema(into, tuple(into.model_fields), row)

    @overload
    async def all(self, statement: Select[ModelType]) -> list[ModelType]: ...
    @overload
    async def all(self, statement: Select[ModelType], *, into: type[Schema]) -> list[Schema]: ...
    async def all(
        self, statement: Select[ModelType], *, into: type[Schema] | None = None
    ) -> list[ModelType] | list[Schema]:
        """All rows. Give the statement an order and a limit."""
        if into is None:
            return list((await self.session.scalars(statement)).all())
        names = tuple(into.model_fields)
        projection = statement.with_only_columns(*columns_of(self.model, into))
        return [_to_schema(into, names, row) for row in (await self.session.execute(projection)).all()]

    def _must_write(self) -> None:
        if is_read_only(self.session):
            raise ReadOnlySession

    def _version(self) -> InstrumentedAttribute[int] | None:
        column = inspect(self.model).version_id_col
        if column is None:
            return None
        return cast(InstrumentedAttribute[int], inspect(self.model).get_property_by_column(column).class_attribute)

    def _unchanged(self, expected_version: Expected) -> list[ColumnElement[bool]]:
        if expected_version is None:
            return []
        version = self._version()
        if version is None:
            raise TypeError(f"{self.model.__name__} has no version: derive it from kernel.database.Versioned")
        return [version.in_([expected_version] if isinstance(expected_version, int) else expected_version)]

    async def _refuse_stale(self, id_: IDType, expected_version: Expected) -> None:
        if expected_version is not None and await self.exists(id_):
            raise StaleVersion


@cache
def primary_key_of(model: type[DeclarativeBase]) -> InstrumentedAttribute[Any]:
    """The attribute that is the primary key. Raises TypeError for a key of several columns."""
    columns = inspect(model).primary_key
    if len(columns) != 1:
        raise TypeError(f"{model.__name__} has a primary key of {len(columns)} columns; BaseRepository needs one")
    return cast(InstrumentedAttribute[Any], inspect(model).get_property_by_column(columns[0]).class_attribute)


@cache
def columns_of(model: type[DeclarativeBase], schema: type[BaseModel]) -> tuple[InstrumentedAttribute[Any], ...]:
    """The columns that a schema's fields name. Raises TypeError for a field that is no column."""
    columns = inspect(model).column_attrs
    unknown = [name for name in schema.model_fields if name not in columns]
    if unknown:
        raise TypeError(f"{schema.__name__} cannot be read from {model.__name__}: it has no column {unknown[0]}")
    return tuple(columns[name].class_attribute for name in schema.model_fields)


def _to_schema(schema: type[Schema], names: tuple[str, ...], row: Row[Any]) -> Schema:
    return schema.model_validate(dict(zip(names, row, strict=False)), by_name=True)
