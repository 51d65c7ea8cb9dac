from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.database import BigId, new_metadata


class Base(DeclarativeBase):
    metadata = new_metadata()


class Thing(Base):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
