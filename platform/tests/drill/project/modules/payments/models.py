"""The tables of payments."""

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.database import BigId, new_metadata
from kernel.ext.idempotency import IdempotencyTable


class Base(DeclarativeBase):
    """The declarative base of payments alone."""

    metadata = new_metadata()


class Payment(Base):
    """An amount in cents."""

    __tablename__ = "payments"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    cents: Mapped[int]


class Idempotency(IdempotencyTable, Base):
    """The keys of requests, and the responses."""

    __tablename__ = "idempotency"
