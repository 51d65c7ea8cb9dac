"""The tables of events."""

import datetime as dt

from sqlalchemy import Index, String, Text, false, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.database import BigId, Timestamps, Versioned, new_metadata
from kernel.ext.idempotency import IdempotencyTable
from kernel.ext.messaging import InboxTable, OutboxTable
from kernel.ext.search import search_vector

# The text that a search covers. The index serves the query only if both use the same expression.
SEARCHED_TEXT = "title || ' ' || description || ' ' || location"
_SEARCH_VECTOR = text(search_vector(SEARCHED_TEXT))


class Base(DeclarativeBase):
    """The declarative base of this module: its tables cannot refer to tables of other modules."""

    metadata = new_metadata()


class Event(Timestamps, Versioned, Base):
    """A calendar event."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text)
    date: Mapped[dt.date]
    # Local time at the location.
    time: Mapped[dt.time]
    location: Mapped[str] = mapped_column(String(200))
    # The id of an image in the module images. Foreign keys across modules are not allowed.
    image_id: Mapped[int | None] = mapped_column(BigId)
    # Only the owner can read a draft.
    is_draft: Mapped[bool] = mapped_column(default=False, server_default=false())
    # The creator's Principal.key. None for rows that are older than this column.
    owner: Mapped[str | None] = mapped_column(String(500))

    # One index per filter and per sort order of the list. The last column breaks ties.
    __table_args__ = (
        Index(None, "date", "time", "id"),
        Index(None, "location", "date", "time", "id"),
        Index(None, "title", "id"),
        Index(None, "created_at", "id"),
        Index(None, "image_id"),
        Index("ix_events_search", _SEARCH_VECTOR, postgresql_using="gin", info={"by_hand": True}).ddl_if(
            dialect="postgresql"
        ),
    )


class Outbox(OutboxTable, Base):
    """Messages from a broker until they are handled. This module publishes none."""

    __tablename__ = "outbox"


class Inbox(InboxTable, Base):
    """The messages that this module has handled, so that each takes effect once."""

    __tablename__ = "inbox"


class Idempotency(IdempotencyTable, Base):
    """Idempotency keys with the recorded responses."""

    __tablename__ = "idempotency"
