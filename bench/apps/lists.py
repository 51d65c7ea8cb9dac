"""The queries of the list of events, which the control and the template share."""

import base64
import datetime as dt
import re

from pydantic_core import from_json, to_json
from sqlalchemy import ColumnElement, Select, func, literal_column, select, tuple_

from bench.apps.schemas import EventQuery
from bench.apps.tables import Event

# This expression must equal that of the index.
SEARCH_VECTOR = "to_tsvector('simple', normalize(title || ' ' || description || ' ' || location))"


def encode_cursor(date: dt.date, time: dt.time, id_: int) -> str:
    """Return a cursor to the position after this row."""
    return base64.urlsafe_b64encode(to_json(["date,time,id", date, time, id_])).rstrip(b"=").decode()


def decode_cursor(cursor: str) -> tuple[dt.date, dt.time, int]:
    """Return the position of a cursor. Raises ValueError."""
    _, date, time, id_ = from_json(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    return dt.date.fromisoformat(date), dt.time.fromisoformat(time), id_


def search_terms(q: str) -> str:
    """Return the words of a search as a PostgreSQL tsquery of prefixes."""
    return " & ".join(f"{word}:*" for word in re.findall(r"\w+", q.lower()))


def filters(query: EventQuery) -> list[ColumnElement[bool]]:
    """Return the conditions of a list."""
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
    """Return a query for the number of rows of the whole list."""
    return select(func.count()).select_from(Event).where(*filters(query))


def page_of(query: EventQuery) -> Select[Event]:
    """Return a query for the rows of a page and one more, which shows whether there is a next page."""
    statement = select(Event).where(*filters(query)).order_by(Event.date, Event.time, Event.id)
    if query.cursor is None:
        statement = statement.offset(query.offset)
    elif query.cursor:
        statement = statement.where(tuple_(Event.date, Event.time, Event.id) > decode_cursor(query.cursor))
    return statement.limit(query.limit + 1)


def expected_versions(if_match: str | None) -> list[int] | None:
    """Return the versions in an `If-Match` header, or None without the header."""
    return None if if_match is None else [int(tag) for tag in re.findall(r'"(\d+)"', if_match)]
