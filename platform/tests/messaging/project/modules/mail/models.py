from datetime import datetime

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.database import BigId, UtcDateTime, new_metadata
from kernel.ext.messaging import InboxTable, OutboxTable
from kernel.ext.messaging.tables import clock


class Base(DeclarativeBase):
    metadata = new_metadata()


class Outbox(OutboxTable, Base):
    __tablename__ = "outbox"


class Inbox(InboxTable, Base):
    __tablename__ = "inbox"


class Letter(Base):
    __tablename__ = "letters"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    number: Mapped[int]
    customer: Mapped[str | None]
    written_at: Mapped[datetime] = mapped_column(UtcDateTime, default=clock())


class Attempt(Base):
    __tablename__ = "attempts"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    number: Mapped[int]
