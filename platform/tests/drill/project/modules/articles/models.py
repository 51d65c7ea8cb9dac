"""The tables of articles."""

from sqlalchemy import ForeignKey, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from kernel.database import BigId, new_metadata


class Base(DeclarativeBase):
    """The declarative base of articles alone."""

    metadata = new_metadata()


class Comment(Base):
    """A comment on an article."""

    __tablename__ = "comments"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    article_id: Mapped[int] = mapped_column(ForeignKey("articles.id"))
    text: Mapped[str] = mapped_column(Text)


class Article(Base):
    """A text."""

    __tablename__ = "articles"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    comments: Mapped[list[Comment]] = relationship()
