"""What the list of events asks of the database; the control and the template share it."""

import base64
import datetime as dt
import re

from pydantic_core import from_json, to_json
from sqlalchemy import ColumnElement, Select, func, literal_column, select, tuple_

from bench.apps.schemas import EventQuery
from bench.apps.tables import Event

# Word for word as the index has it.
SEARCH_VECTOR = "to_tsvector('simple', normalize(title || ' ' || description || ' ' || location))"


def encode_cursor(date: dt.date, time: dt.time, id_: int) -> str:
    """A cursor that stands behind this row."""
    return base64.urlsafe_b64encode(to_json(["date,time,id", date, time, id_])).rstrip(b"=").decode()


def decode_cursor(cursor: str) -> tuple[dt.date, dt.time, int]:
    """Where a cursor stands. Raises ValueError."""
    _, date, time, id_ = from_json(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    return dt.date.fromisoformat(date), dt.time.fromisoformat(time), id_


def search_terms(q: str) -> str:
    """What the words of a search are for PostgreSQL: each begins a word of the text."""
    return " & ".join(f"{word}:*" for word in re.findall(r"\w+", q.lower()))


def filters(query: EventQuery) -> list[ColumnElement[bool]]:
    """The conditions of a list."""
    where: list[ColumnElement[bool]] = []
    if query.q and (terms := search_terms(query.q)):
        wanted = func.to_tsquery(literal_column("'simple'"), terms)
        where.append(literal_column(SEARCH_VECTOR).op("@@", is_comparison=True)(wanted))
    if query.location is not None:
        where.append(Event.location == query.location)
    if query.date_from is not None:
        where.append(Event.date >= query.date_from)
    if query.date_to is not None:
        where.append(Event.date <= query.date_to)
    if query.upcoming:
        where.append(Event.date >= dt.datetime.now(dt.UTC).date())
    return where


def count_of(query: EventQuery) -> Select[int]:
    """How many rows the whole list has."""
    return select(func.count()).select_from(Event).where(*filters(query))


def page_of(query: EventQuery) -> Select[Event]:
    """The rows of a page, and one more if there is one."""
    statement = select(Event).where(*filters(query)).order_by(Event.date, Event.time, Event.id)
    if query.cursor is None:
        statement = statement.offset(query.offset)
    elif query.cursor:
        statement = statement.where(tuple_(Event.date, Event.time, Event.id) > decode_cursor(query.cursor))
    return statement.limit(query.limit + 1)


def expected_versions(if_match: str | None) -> list[int] | None:
    """The versions that an `If-Match` names; None without one."""
    return None if if_match is None else [int(tag) for tag in re.findall(r'"(\d+)"', if_match)]
