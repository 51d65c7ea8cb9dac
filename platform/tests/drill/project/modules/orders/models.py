"""The tables of orders."""

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.database import BigId, new_metadata
from kernel.ext.messaging import InboxTable, OutboxTable


class Base(DeclarativeBase):
    """The declarative base of orders alone."""

    metadata = new_metadata()


class Letter(Base):
    """A letter that confirms an order."""

    __tablename__ = "letters"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    number: Mapped[int]


class Outbox(OutboxTable, Base):
    """Messages to deliver."""

    __tablename__ = "outbox"


class Inbox(InboxTable, Base):
    """Messages that have taken effect."""

    __tablename__ = "inbox"
