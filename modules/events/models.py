"""The tables of events."""

import datetime as dt

from sqlalchemy import Index, String, Text, false, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.database import BigId, Timestamps, Versioned, new_metadata, search_vector
from kernel.ext.idempotency import IdempotencyTable
from kernel.ext.messaging import InboxTable, OutboxTable

# What a search looks at: in the query, and in the index that serves it.
SEARCHED_TEXT = "title || ' ' || description || ' ' || location"
_SEARCH_VECTOR = text(search_vector(SEARCHED_TEXT))


class Base(DeclarativeBase):
    """The declarative base of events alone: its tables cannot refer to another module's."""

    metadata = new_metadata()


class Event(Timestamps, Versioned, Base):
    """Something that takes place."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text)
    date: Mapped[dt.date]
    # Local to the place.
    time: Mapped[dt.time]
    location: Mapped[str] = mapped_column(String(200))
    # An image of the module images, which is asked through its contract: no foreign key crosses modules.
    image_id: Mapped[int | None] = mapped_column(BigId)
    # A draft is seen by its owner alone.
    is_draft: Mapped[bool] = mapped_column(default=False, server_default=false())
    # Who created it (Principal.key); None for what is older than owners are.
    owner: Mapped[str | None] = mapped_column(String(500))

    # One index for each filter and each order of the list. The last column is what breaks ties.
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
    """What a broker brings until it is handled; events tells nothing itself."""

    __tablename__ = "outbox"


class Inbox(InboxTable, Base):
    """What was handled of what others tell."""

    __tablename__ = "inbox"


class Idempotency(IdempotencyTable, Base):
    """The keys of requests that may be repeated."""

    __tablename__ = "idempotency"
