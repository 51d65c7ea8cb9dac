"""The tables of images."""

from sqlalchemy import CheckConstraint, Index, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.database import BigId, Timestamps, Versioned, new_metadata
from kernel.ext.idempotency import IdempotencyTable
from kernel.ext.messaging import OutboxTable


class Base(DeclarativeBase):
    """The declarative base of this module."""

    metadata = new_metadata()


class Image(Timestamps, Versioned, Base):
    """The metadata of an image. Its bytes are in the object store."""

    __tablename__ = "images"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    caption: Mapped[str] = mapped_column(String(500))
    content_type: Mapped[str] = mapped_column(String(50))
    # In pixels, after the EXIF orientation is applied.
    width: Mapped[int]
    height: Mapped[int]
    size_bytes: Mapped[int]
    # Hexadecimal hash of the original's bytes, also its ETag.
    sha256: Mapped[str] = mapped_column(String(64))
    # Generated names in the object store. The file name of the upload is not kept.
    content_key: Mapped[str] = mapped_column(String(100), unique=True)
    thumbnail_key: Mapped[str] = mapped_column(String(100), unique=True)
    # The uploader's Principal.key. None for rows that are older than this column.
    owner: Mapped[str | None] = mapped_column(String(500))

    __table_args__ = (
        CheckConstraint("width > 0 AND height > 0", name="has_pixels"),
        Index(None, "created_at", "id"),
    )


class StorageIdentity(Base):
    """The random name of this database in the object store: one row, written at the first use."""

    __tablename__ = "storage_identity"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[str] = mapped_column(String(32))

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class Outbox(OutboxTable, Base):
    """Published messages until they are delivered."""

    __tablename__ = "outbox"


class Idempotency(IdempotencyTable, Base):
    """Idempotency keys with the recorded responses."""

    __tablename__ = "idempotency"
