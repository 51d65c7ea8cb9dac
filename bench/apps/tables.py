"""The tables as SQLAlchemy entities, written as in SQLAlchemy's documentation."""

import datetime as dt
import os
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, String, Text, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# On PostgreSQL each table has a schema, on SQLite all are in one file. Each application has a process of its own.
_ON_SQLITE = os.environ.get("DATABASE_URL", "").startswith("sqlite")


def utc_now() -> dt.datetime:
    """Return the current time with its time zone."""
    return dt.datetime.now(dt.UTC)


class _Utc(TypeDecorator[dt.datetime]):
    """A timestamp with a time zone, which SQLite does not store."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        return None if value is None else value.replace(tzinfo=dt.UTC)


_Moment = DateTime(timezone=True).with_variant(_Utc(), "sqlite")


def _in_schema(name: str) -> dict[str, Any]:
    return {} if _ON_SQLITE else {"schema": name}


class Base(DeclarativeBase):
    """The declarative base of both tables."""


class Event(Base):
    """An event."""

    __tablename__ = "events"
    __table_args__ = _in_schema("events")

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text)
    date: Mapped[dt.date]
    time: Mapped[dt.time]
    location: Mapped[str] = mapped_column(String(200))
    image_id: Mapped[int | None] = mapped_column(BigInteger)
    is_draft: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[dt.datetime] = mapped_column(_Moment, default=utc_now)
    updated_at: Mapped[dt.datetime] = mapped_column(_Moment, default=utc_now, onupdate=utc_now)
    version: Mapped[int] = mapped_column(default=1)


class Image(Base):
    """The metadata of a picture."""

    __tablename__ = "images"
    __table_args__ = _in_schema("images")

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    caption: Mapped[str] = mapped_column(String(500))
    content_type: Mapped[str] = mapped_column(String(50))
    width: Mapped[int]
    height: Mapped[int]
    size_bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    content_key: Mapped[str] = mapped_column(String(100))
    thumbnail_key: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[dt.datetime] = mapped_column(_Moment, default=utc_now)
    updated_at: Mapped[dt.datetime] = mapped_column(_Moment, default=utc_now, onupdate=utc_now)
    version: Mapped[int] = mapped_column(default=1)
