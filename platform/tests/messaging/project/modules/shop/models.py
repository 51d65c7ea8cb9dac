from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.database import BigId, new_metadata
from kernel.ext.messaging import OutboxTable


class Base(DeclarativeBase):
    metadata = new_metadata()


class Outbox(OutboxTable, Base):
    __tablename__ = "outbox"


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    number: Mapped[int]
