"""Orders of a list, and the cursors that point behind one of its rows."""

import base64
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property, lru_cache
from typing import Annotated, Any
from uuid import UUID

from pydantic import AllowInfNan, AwareDatetime, ConfigDict, TypeAdapter
from pydantic_core import from_json, to_json
from sqlalchemy import ColumnElement, TypeDecorator, bindparam, tuple_, type_coerce, types
from sqlalchemy.orm import InstrumentedAttribute

from kernel.database import UtcDateTime


class InvalidCursor(Exception):
    """The cursor is not from this list, or from another order of it."""


class _SortKey:
    """A column of an order, and the representation of its values in a cursor.

    Values of common types are written directly. Those of other types (Numeric, Enum, bytes, any TypeDecorator) are
    written as the driver returns them, without SQLAlchemy's conversion, which may round a value or make an object of
    it.
    """

    def __init__(self, column: InstrumentedAttribute[Any]) -> None:
        self.column = column
        if column.property.columns[0].nullable:
            raise TypeError(f"{column} may be NULL, which has no place in an order that pages can rely on")
        stored = column.type
        while isinstance(stored, TypeDecorator):
            stored = stored.impl_instance
        if not isinstance(stored, _SORTABLE):
            raise TypeError(f"{column} has the type {column.type!r}, by which pages cannot be sorted")
        self.is_exact = type(column.type) is UtcDateTime or (
            isinstance(column.type, _EXACT) and not isinstance(column.type, types.Enum)
        )
        self._adapter: TypeAdapter[Any] | None = None
        if self.is_exact:
            kind = AwareDatetime if isinstance(column.type, UtcDateTime) else column.type.python_type
            self._adapter = TypeAdapter(kind)
        self.type = column.type if self.is_exact else types.NullType()
        self.selected: ColumnElement[Any] = column.expression if self.is_exact else type_coerce(column, self.type)

    def encode(self, value: Any) -> Any:
        """Return the value in its JSON representation."""
        if self.is_exact or isinstance(value, bool | int | float | str):
            return value
        name = type(value).__name__
        return [name, _RAW[name].dump_python(value, mode="json")]

    def decode(self, value: Any, *, on_sqlite: bool) -> Any:
        """Return the value from its JSON representation. Raises ValueError for an invalid one."""
        if self._adapter is not None:
            return self._adapter.validate_python(value)
        if isinstance(value, list) and len(value) == 2 and isinstance(value[1], str):  # A name, which is a text.
            if value[0] in _RAW and (value[0] == "bytes" or not on_sqlite):
                return _RAW[value[0]].validate_json(to_json(value[1]))
        elif isinstance(value, bool | int | float | str):
            return value
        raise ValueError("not a value of a cursor")


_EXACT = (types.Integer, types.String, types.Date, types.DateTime, types.Time, types.Boolean, types.Uuid, types.Float)
_SORTABLE = (*_EXACT, types.Numeric, types.Interval, types.LargeBinary)
_HEX = ConfigDict(ser_json_bytes="hex", val_json_bytes="hex")
# Types that drivers return and JSON does not have, by the name that is beside the value's text in a cursor.
_RAW: dict[str, TypeAdapter[Any]] = {
    "Decimal": TypeAdapter(Annotated[Decimal, AllowInfNan()]),
    **{kind.__name__: TypeAdapter(kind, config=_HEX) for kind in (bytes, datetime, date, time, timedelta, UUID)},
}

# Created once for each sort column, because lists create their Sort at every request.
_key_of = lru_cache(1000)(_SortKey)


class Sort:
    """An order of rows: by columns that are never NULL, all in one direction.

    The repository appends the primary key, so that the order is total and a page never repeats or skips a row. Columns
    of another table need a `select()` that joins it, or a condition that does; an outer join makes them NULL.
    """

    # The mapper of the rows, after it is known.
    _home: object = None

    def __init__(self, *columns: InstrumentedAttribute[Any], descending: bool = False) -> None:
        self.columns = columns
        self.keys = tuple(map(_key_of, columns))
        self.descending = descending

    def then(self, key: InstrumentedAttribute[Any]) -> "Sort":
        """Return this order for the rows of a table, completed by its primary key."""
        return _total_order(self.columns, key, descending=self.descending)

    def is_own(self, column: InstrumentedAttribute[Any]) -> bool:
        """Return whether a column belongs to the table of the rows."""
        return column.parent is self._home

    @cached_property
    def is_all_own(self) -> bool:
        """Return whether all columns belong to the table of the rows."""
        return all(map(self.is_own, self.columns))

    def order_by(self) -> list[ColumnElement[Any]]:
        """Return the ORDER BY clause."""
        return [column.desc() if self.descending else column.asc() for column in self.columns]

    def after(self) -> ColumnElement[bool]:
        """Return the condition for rows behind a position, which is given as parameters: see `position`."""
        row = tuple_(*self.columns)
        names = zip(self.keys, self._parameters(), strict=True)
        position = tuple_(*(bindparam(name, type_=key.type) for key, name in names))
        return row < position if self.descending else row > position

    def position(self, cursor: str, *, on_sqlite: bool) -> dict[str, Any]:
        """Return the parameters of `after` for rows behind `cursor`. Raises InvalidCursor."""
        try:
            text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            signature, *values = from_json(text)
            if signature != self.signature or len(values) != len(self.columns):
                raise InvalidCursor
            # Values of the column's own type, so that SQLite, too, compares datetimes and not texts.
            typed = [key.decode(value, on_sqlite=on_sqlite) for key, value in zip(self.keys, values, strict=True)]
            return dict(zip(self._parameters(), typed, strict=True))
        except (ValueError, TypeError, ArithmeticError):
            raise InvalidCursor from None

    def encode(self, values: Sequence[Any]) -> str:
        """Return a cursor that points behind the row with these values of the keys."""
        encoded = [key.encode(value) for key, value in zip(self.keys, values, strict=True)]
        text = to_json([self.signature, *encoded], inf_nan_mode="constants")
        return base64.urlsafe_b64encode(text).rstrip(b"=").decode()

    def _parameters(self) -> list[str]:
        return [f"kernel__after_{number}" for number in range(len(self.columns))]

    @cached_property
    def signature(self) -> str:
        """Return the order as text, equal only for equal orders.

        Columns of other tables include the name of their class.
        """
        names = (column.key if self.is_own(column) else f"{column.parent}.{column.key}" for column in self.columns)
        return f"{'-' if self.descending else ''}{','.join(names)}"


@lru_cache(1000)
def _total_order(
    columns: tuple[InstrumentedAttribute[Any], ...], key: InstrumentedAttribute[Any], *, descending: bool
) -> Sort:
    is_missing = not any(own.key == key.key and own.parent is key.parent for own in columns)
    sort = Sort(*columns, *([key] if is_missing else []), descending=descending)
    sort._home = key.parent
    return sort
