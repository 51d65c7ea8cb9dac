"""The table of notes."""

from sqlalchemy import String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.database import BigId, Versioned, new_metadata


class Base(DeclarativeBase):
    """The declarative base of notes alone."""

    metadata = new_metadata()


class Note(Versioned, Base):
    """A short text with a title."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    text: Mapped[str] = mapped_column(Text, default="")
