"""The table of incidents."""

from datetime import datetime

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.database import BigId, UtcDateTime, new_metadata


class Base(DeclarativeBase):
    """The declarative base of health alone."""

    metadata = new_metadata()


class Incident(Base):
    """A time during which a component was not well, as one process saw it."""

    __tablename__ = "incidents"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    component: Mapped[str] = mapped_column(String(200))
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # What the first failed check said.
    seen: Mapped[str] = mapped_column(Text)
    # Which process saw it: host and process id.
    seen_by: Mapped[str] = mapped_column(String(200))

    __table_args__ = (Index(None, "started_at", "id"), Index(None, "component", "started_at", "id"))
