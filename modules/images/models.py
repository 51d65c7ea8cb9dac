"""The tables of images."""

from sqlalchemy import CheckConstraint, Index, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.database import BigId, Timestamps, Versioned, new_metadata
from kernel.ext.idempotency import IdempotencyTable
from kernel.ext.messaging import OutboxTable


class Base(DeclarativeBase):
    """The declarative base of images alone."""

    metadata = new_metadata()


class Image(Timestamps, Versioned, Base):
    """What is known of a picture; its bytes are in the object store."""

    __tablename__ = "images"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    caption: Mapped[str] = mapped_column(String(500))
    content_type: Mapped[str] = mapped_column(String(50))
    # In pixels, as it is shown: after the camera's orientation.
    width: Mapped[int]
    height: Mapped[int]
    size_bytes: Mapped[int]
    # Of the original's bytes, in hexadecimal; its ETag.
    sha256: Mapped[str] = mapped_column(String(64))
    # Names in the object store, made here: nothing of the uploader's file name is kept.
    content_key: Mapped[str] = mapped_column(String(100), unique=True)
    thumbnail_key: Mapped[str] = mapped_column(String(100), unique=True)
    # Who uploaded it (Principal.key); None for what is older than owners are.
    owner: Mapped[str | None] = mapped_column(String(500))

    __table_args__ = (
        CheckConstraint("width > 0 AND height > 0", name="has_pixels"),
        Index(None, "created_at", "id"),
    )


class StorageIdentity(Base):
    """The random name by which the object store knows this database: one row, written when it is first needed."""

    __tablename__ = "storage_identity"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[str] = mapped_column(String(32))

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class Outbox(OutboxTable, Base):
    """What images tells."""

    __tablename__ = "outbox"


class Idempotency(IdempotencyTable, Base):
    """The keys of requests that may be repeated."""

    __tablename__ = "idempotency"
