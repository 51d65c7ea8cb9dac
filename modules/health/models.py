"""The table of incidents."""

from datetime import datetime

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.database import BigId, UtcDateTime, new_metadata


class Base(DeclarativeBase):
    """The declarative base of this module."""

    metadata = new_metadata()


class Incident(Base):
    """A period in which one process found a component unhealthy."""

    __tablename__ = "incidents"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    component: Mapped[str] = mapped_column(String(200))
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # The problem that the first failed check reported.
    seen: Mapped[str] = mapped_column(Text)
    # Host and process id of the process that ran the checks.
    seen_by: Mapped[str] = mapped_column(String(200))

    __table_args__ = (Index(None, "started_at", "id"), Index(None, "component", "started_at", "id"))
