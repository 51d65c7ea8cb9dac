"""The tables of articles."""

from sqlalchemy import Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.database import BigId, new_metadata


class Base(DeclarativeBase):
    """The declarative base of articles alone."""

    metadata = new_metadata()


class Article(Base):
    """A text."""

    __tablename__ = "articles"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    text: Mapped[str] = mapped_column(Text)
