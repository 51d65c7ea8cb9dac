"""Pages of a list: by offset with a total, or by cursor without one."""

import base64
import binascii
from collections.abc import Sequence
from functools import cache
from typing import Any, Generic, TypeVar

from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import from_json, to_json
from sqlalchemy import ColumnElement, bindparam, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from kernel.database.models import UtcDateTime

Item = TypeVar("Item", bound=BaseModel)


class InvalidCursor(Exception):
    """A cursor that was not made by this list, or was made by it in another order."""


def _opaque(schema: dict[str, Any]) -> None:
    """Not any text is a cursor: OpenAPI names the format, which only our own answers have."""
    for kind in schema.get("anyOf", [schema]):
        if kind["type"] == "string":
            kind["format"] = "cursor"


class PageRequest(BaseModel):
    """Which part of a list is wanted. Use as `Annotated[PageRequest, Query()]`; derive from it to add filters."""

    limit: int = Field(20, ge=1, le=100, description="At most so many items.")
    offset: int = Field(0, ge=0, le=1_000_000, description="Skip so many items; the answer has a total.")
    cursor: str | None = Field(
        None,
        max_length=1000,
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


_adapter = cache(TypeAdapter)
# Where a column takes less than its Python type has.
_KINDS: dict[Any, Any] = {UtcDateTime: AwareDatetime}


class Sort:
    """An order of rows: by columns that are never NULL, all in one direction.

    The repository appends the primary key, so that the order is total and a page never repeats or skips a row.
    """

    def __init__(self, *columns: InstrumentedAttribute[Any], descending: bool = False) -> None:
        self.columns = columns
        self.descending = descending
        for column in columns:
            if column.property.columns[0].nullable:
                raise TypeError(f"{column} may be NULL, which has no place in an order that pages can rely on")

    def then(self, *columns: InstrumentedAttribute[Any]) -> "Sort":
        """This order, with ties broken by `columns`."""
        missing = [column for column in columns if column.key not in {own.key for own in self.columns}]
        return Sort(*self.columns, *missing, descending=self.descending)

    def order_by(self) -> list[ColumnElement[Any]]:
        """The ORDER BY clause."""
        return [column.desc() if self.descending else column.asc() for column in self.columns]

    def after(self) -> ColumnElement[bool]:
        """The condition for rows behind a position, which comes as parameters: see `position`."""
        names = zip(self.columns, self._parameters(), strict=True)
        row = tuple_(*self.columns)
        position = tuple_(*(bindparam(name, type_=column.type) for column, name in names))
        return row < position if self.descending else row > position

    def position(self, cursor: str) -> dict[str, Any]:
        """The parameters of `after` for rows behind `cursor`. Raises InvalidCursor."""
        try:
            text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            signature, *values = from_json(text)
            if signature != self.signature or len(values) != len(self.columns):
                raise InvalidCursor
            # As the column's own type, so that a moment is compared as a moment on SQLite, too.
            kinds = (_adapter(_KINDS.get(type(column.type), column.type.python_type)) for column in self.columns)
            typed = (kind.validate_python(value) for kind, value in zip(kinds, values, strict=True))
            return dict(zip(self._parameters(), typed, strict=True))
        except (binascii.Error, ValueError, TypeError, ValidationError):
            raise InvalidCursor from None

    def encode(self, values: Sequence[Any]) -> str:
        """A cursor that stands behind the row with these values."""
        return base64.urlsafe_b64encode(to_json([self.signature, *values])).rstrip(b"=").decode()

    def _parameters(self) -> list[str]:
        return [f"kernel__after_{number}" for number in range(len(self.columns))]

    @property
    def signature(self) -> str:
        """The order in a word, for whoever must tell one from another."""
        return f"{'-' if self.descending else ''}{','.join(column.key for column in self.columns)}"
