"""The queries that every table needs. A module's repository derives from this and adds its own."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast, overload

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Select, Update, func, insert, literal, literal_column, select, update
from sqlalchemy import delete as delete_from
from sqlalchemy.exc import MultipleResultsFound
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute

from kernel.database import statements
from kernel.database.errors import NotAllowed, ReadOnlySession, StaleVersion
from kernel.database.runner import Rows, StatementRunner
from kernel.database.session import ReadSession

ModelType = TypeVar("ModelType", bound=DeclarativeBase)
IDType = TypeVar("IDType")
Schema = TypeVar("Schema", bound=BaseModel)
Expected = int | Collection[int] | None
"""The version, or one of the versions, that a row must still have; None: any."""
Order = ColumnElement[Any] | InstrumentedAttribute[Any]


class BaseRepository(Generic[ModelType, IDType]):
    """One table's queries, each a single statement.

    Where a method takes `into`, naming a pydantic schema makes it a projection: only the schema's columns are
    selected, and the rows become the schema without an entity in between. Without `into` the method returns entities,
    which are for changing things.

    Nothing here commits: the session does at its end.
    """

    def __init__(self, model: type[ModelType], session: AsyncSession) -> None:
        self.model = model
        self.session = session
        self._id: InstrumentedAttribute[IDType] = statements.primary_key_of(model)
        self._seen: statements.Condition = None
        self.own: statements.Condition = None
        self.known: Mapping[str, Any] = {}

    def restrict(self, seen: ColumnElement[bool], own: ColumnElement[bool], **values: Any) -> None:
        """See the rows that fulfil `seen` as if there were no others, and change only those that fulfil `own`, too.

        The conditions are constants, made once; what differs from caller to caller is a `bindparam` in them, under a
        name that no column has, and its value is among `values`.
        """
        self._seen, self.own, self.known = seen, own, values

    # Reading

    @overload
    async def get_by_id(self, id_: IDType) -> ModelType | None: ...
    @overload
    async def get_by_id(self, id_: IDType, *, into: type[Schema]) -> Schema | None: ...
    async def get_by_id(self, id_: IDType, *, into: type[Schema] | None = None) -> ModelType | Schema | None:
        """The row with this primary key, or None."""
        if into is None:
            return await self.one(self.select().where(self._id == id_))
        if self._refines_select:
            return await self.one(self.select().where(self._id == id_).order_by(None), into=into)
        statement = statements.by_id(self.model, into, self._seen)
        return await self._one(into, await self.rows(statement, {statements.ID: id_, **self.known}))

    @overload
    async def get_all(self, limit: int = ..., offset: int = ..., *order: Order) -> list[ModelType]: ...
    @overload
    async def get_all(self, limit: int = ..., offset: int = ..., *order: Order, into: type[Schema]) -> list[Schema]: ...
    async def get_all(
        self, limit: int = 100, offset: int = 0, *order: Order, into: type[Schema] | None = None
    ) -> list[ModelType] | list[Schema]:
        """Return rows in this order, ties and all of them without one by primary key: `Event.date.desc()`."""
        statement = self.select().order_by(None).order_by(*order, self._id).limit(limit).offset(offset)
        return await (self.all(statement) if into is None else self.all(statement, into=into))

    async def count(self, *where: ColumnElement[bool]) -> int:
        """How many rows fulfil all of `where`."""
        return await self._count(where, [self._id])

    async def exists(self, id_: IDType) -> bool:
        """Return whether there is a row with this primary key."""
        one: ColumnElement[int] = literal_column("1")
        found = self.select().where(self._id == id_).order_by(None)
        return bool(await self.rows(found.with_only_columns(one, maintain_column_froms=True)))

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
        rows = None if (runner := self._runner) is None else await runner.insert_row(self, into, values)
        if rows is None:
            statement = insert(self.model).values(**values).returning(*statements.columns_of(self.model, into))
            rows = list((await self.session.execute(statement)).all())
        return (await self.schemas(into, rows))[0]

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

        A model with a version gets the next one. Without values, a model without version and timestamps stays as it
        is. Raises StaleVersion where the row's version is not `expected_version`, and NotAllowed where the row is not
        the caller's (restrict).
        """
        self._must_write()
        versions = self._versions(expected_version)
        changed: ModelType | Schema | None
        if not values and not statements.changes_itself(self.model):
            unchanged = select(self.model).where(*self._row(id_, versions))
            changed = await (self.one(unchanged) if into is None else self.one(unchanged, into=into))
        elif into is None:
            statement = self._change(id_, versions, values).returning(self.model)
            changed = await self.session.scalar(statement, execution_options={"populate_existing": True})
        else:
            rows = (
                None if (runner := self._runner) is None else await runner.update_row(self, into, id_, versions, values)
            )
            if rows is None:
                returned = statements.columns_of(self.model, into)
                result = await self.session.execute(self._change(id_, versions, values).returning(*returned))
                rows = list(result.all())
            changed = await self._one(into, rows)
        if changed is None:
            await self._refuse(id_, versions)
        return changed

    async def delete(self, id_: IDType, *, expected_version: Expected = None) -> bool:
        """Delete one row; whether there was one. Raises as `update`."""
        self._must_write()
        versions = self._versions(expected_version)
        rows = None if (runner := self._runner) is None else await runner.delete_row(self, id_, versions)
        if rows is None:
            statement = delete_from(self.model).where(*self._row(id_, versions)).returning(self._id)
            rows = list((await self.session.execute(statement)).all())
        if not rows:
            await self._refuse(id_, versions)
        return bool(rows)

    # For the queries of derived repositories

    def select(self) -> Select[ModelType]:
        """The base statement of all reads. Refine it with `where`, `join` and `order_by`; run it with `one` or `all`.

        A repository may override it, say to pass over what is archived.
        """
        if self._seen is None:
            return self._everything()
        return select(self.model).where(statements.with_values(self._seen, self.known))

    def _everything(self) -> Select[ModelType]:
        """The rows that the caller sees, with parameters in place of the values of `restrict`."""
        return select(self.model) if self._seen is None else select(self.model).where(self._seen)

    @overload
    async def one(self, statement: Select[ModelType]) -> ModelType | None: ...
    @overload
    async def one(self, statement: Select[ModelType], *, into: type[Schema]) -> Schema | None: ...
    async def one(self, statement: Select[ModelType], *, into: type[Schema] | None = None) -> ModelType | Schema | None:
        """The only row, or None. Raises sqlalchemy.exc.MultipleResultsFound."""
        if into is None:
            return (await self.session.execute(statement)).scalar_one_or_none()
        return await self._one(
            into, await self.rows(statement.with_only_columns(*statements.columns_of(self.model, into)))
        )

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
        rows = await self.rows(statement.with_only_columns(*statements.columns_of(self.model, into)))
        return await self.schemas(into, rows)

    async def _one(self, into: type[Schema], rows: Rows) -> Schema | None:
        """Return the one row as a schema, or None. Raises sqlalchemy.exc.MultipleResultsFound."""
        if len(rows) > 1:
            raise MultipleResultsFound("Multiple rows were found when one or none was required")
        if rows and (names := statements.fields_of(into)) is not None:  # the usual case, without another coroutine
            return _to_schema(into, names, rows[0])
        return (await self.schemas(into, rows))[0] if rows else None

    async def schemas(self, into: type[Schema], rows: Sequence[Sequence[Any]]) -> list[Schema]:
        """Return rows as schemas; a row begins with the columns that the schema needs."""
        if (names := statements.fields_of(into)) is not None:
            return [_to_schema(into, names, row) for row in rows]
        made: Any = cast(type[statements.RowSchema], into)
        return list(await made.from_rows(self, rows))

    async def rows(self, statement: Select[Any], parameters: Mapping[str, Any] | None = None) -> Rows:
        """Return the rows of a statement."""
        if (runner := self._runner) is not None and (rows := await runner.fetch(statement, parameters)) is not None:
            return rows
        return list((await self.session.execute(statement, parameters)).all())

    async def _count(self, where: Sequence[ColumnElement[bool]], columns: Sequence[Any]) -> int:
        return int((await self.rows(self._counting(self.select().where(*where), columns)))[0][0])

    def _counting(self, statement: Select[Any], columns: Sequence[Any]) -> Select[Any]:
        """The number of rows of a statement that selects `columns`.

        An overridden `select()` may have DISTINCT or GROUP BY: count(*) beside them counts something else.
        """
        if not self._refines_select:
            return statement.with_only_columns(func.count(), maintain_column_froms=True).correlate(None)
        return select(func.count()).select_from(statement.with_only_columns(*columns).order_by(None).subquery())

    @property
    def _runner(self) -> StatementRunner | None:
        return getattr(self.session, "runner", None)  # any AsyncSession will do

    @property
    def _refines_select(self) -> bool:
        return type(self).select is not BaseRepository.select

    def _must_write(self) -> None:
        if isinstance(self.session, ReadSession):
            raise ReadOnlySession

    def _versions(self, expected: Expected) -> Collection[int] | None:
        if expected is not None and statements.version_of(self.model) is None:
            raise TypeError(f"{self.model.__name__} has no version: derive it from kernel.database.Versioned")
        return [expected] if isinstance(expected, int) else expected

    async def _refuse(self, id_: IDType, versions: Collection[int] | None) -> None:
        """Say why a row was left as it is, if it is one that the caller sees."""
        if (versions is None and self.own is None) or not await self.exists(id_):
            return
        if self.own is not None and not await self.rows(select(self._id).where(*self._row(id_, None))):
            raise NotAllowed
        if versions is not None:
            raise StaleVersion

    def _row(self, id_: IDType, versions: Collection[int] | None) -> list[ColumnElement[bool]]:
        """Return the condition for a row to be changed."""
        version = statements.version_of(self.model)
        conditions: list[ColumnElement[bool]] = [self._id == id_]
        if versions is not None and version is not None:
            conditions.append(statements.is_listed(version, literal(statements.listed(versions))))
        return conditions + ([] if self.own is None else [statements.with_values(self.own, self.known)])

    def _change(self, id_: IDType, versions: Collection[int] | None, values: Mapping[str, Any]) -> Update:
        version = statements.version_of(self.model)
        counted = {} if version is None else {version.key: version + 1}
        return update(self.model).where(*self._row(id_, versions)).values({**values, **counted})


def _to_schema(schema: type[Schema], names: tuple[str, ...], row: Sequence[Any]) -> Schema:
    return schema.model_validate(dict(zip(names, row, strict=False)), by_name=True)
