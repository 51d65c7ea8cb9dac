"""Pages of a list: by offset with a total, or by cursor without one."""

from functools import lru_cache
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, Field, model_validator
from sqlalchemy import ColumnElement, Integer, Select, bindparam
from sqlalchemy.orm import InstrumentedAttribute

from kernel.database.repository import BaseRepository, IDType, ModelType, Schema
from kernel.database.runner import Rows
from kernel.database.statements import columns_of
from kernel.ext.paging.sort import Sort

Item = TypeVar("Item", bound=BaseModel)

# Parameters with names that no column has.
_LIMIT = bindparam("kernel__limit", type_=Integer)
_OFFSET = bindparam("kernel__offset", type_=Integer)


def _opaque(schema: dict[str, Any]) -> None:
    """Give the cursor a format of its own in OpenAPI, because only a value from an earlier response is valid."""
    for kind in schema.get("anyOf", [schema]):
        if kind["type"] == "string":
            kind["format"] = "cursor"


class PageRequest(BaseModel):
    """The requested part of a list. Use as `Annotated[PageRequest, Query()]`; derive from it to add filters."""

    limit: int = Field(20, ge=1, le=100, description="At most so many items.")
    offset: int = Field(0, ge=0, le=1_000_000, description="Skip so many items; the answer has a total.")
    cursor: str | None = Field(
        None,
        max_length=4000,
        json_schema_extra=_opaque,
        description="Continue after the page that gave this `next_cursor`; empty starts. Without a total, and as "
        "fast on the last page as on the first.",
    )

    @model_validator(mode="after")
    def _offset_or_cursor(self) -> "PageRequest":
        if self.cursor is not None and self.offset:
            raise ValueError("offset and cursor exclude each other")
        return self


class Page(BaseModel, Generic[Item]):
    """A part of a list."""

    items: list[Item]
    total: int | None = Field(description="How many items the whole list has; null when paging by cursor.")
    next_cursor: str | None = Field(description="Where the next page starts; null on the last page.")


class PagedRepository(BaseRepository[ModelType, IDType]):
    """A repository whose lists are paged."""

    async def page(
        self, request: PageRequest, into: type[Schema], *where: ColumnElement[bool], order: Sort | None = None
    ) -> Page[Schema]:
        """Return a page of the rows that fulfil all of `where`. Raises InvalidCursor.

        A page by offset has the total, from the same statement; only behind the last row it takes a second statement.
        """
        sort = (order or Sort()).then(self._id)
        columns_of_schema = columns_of(self.model, into)
        hidden, places = _places(sort, columns_of_schema)
        selected: list[Any] = [*columns_of_schema, *hidden]
        counts, continues = request.cursor is None, bool(request.cursor)
        place = {_LIMIT.key: request.limit + 1, **self.known}
        if request.cursor:
            place |= sort.position(request.cursor, on_sqlite=self.session.get_bind().dialect.name == "sqlite")
        if counts:
            place[_OFFSET.key] = request.offset

        def build() -> Select[Any]:
            # Without the caller's values, because other orders of this shape have their own.
            found = (self.select() if self._refines_select else self._everything()).where(*where)
            columns = [*selected, self._counting(found, selected).scalar_subquery()] if counts else selected
            if continues:
                found = found.where(sort.after())
            statement = found.with_only_columns(*columns).order_by(None).order_by(*sort.order_by())
            statement = statement.limit(_LIMIT)
            return statement.offset(_OFFSET) if counts else statement

        shape = (self.model, into, self._seen, sort.signature, counts, continues)
        rows: Rows | None = None
        if sort.is_all_own and not self._refines_select:  # An alias has no name that distinguishes it from others.
            rows = None if (runner := self._runner) is None else await runner.fetch_shape(shape, where, build, place)
        if rows is None:
            rows = await self.rows(build(), place)
        shown = rows[: request.limit]
        count: int | None = None
        if counts:
            count = rows[0][-1] if rows else await self._count(where, selected) if request.offset else 0
        next_cursor = None
        if len(rows) > len(shown):
            next_cursor = sort.encode([shown[-1][index] for index in places])
        return Page(items=await self.schemas(into, shown), total=count, next_cursor=next_cursor)


@lru_cache(1000)
def _places(sort: Sort, columns: tuple[InstrumentedAttribute[Any], ...]) -> tuple[list[ColumnElement[Any]], list[int]]:
    """Return the columns to select beside `columns` for the keys of the order, and the position of each key."""
    own = {column.key: place for place, column in enumerate(columns)}
    hidden: list[ColumnElement[Any]] = []
    places: list[int] = []
    for key in sort.keys:
        if key.is_exact and sort.is_own(key.column) and key.column.key in own:
            places.append(own[key.column.key])
        else:
            places.append(len(columns) + len(hidden))
            hidden.append(key.selected)
    return hidden, places
