"""The two tables that messages need. A module declares them on its own base, in its own migrations."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Float, Index, String, Text, UniqueConstraint, cast, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Mapped, declared_attr, mapped_column
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from kernel.database import BigId, UtcDateTime
from kernel.ext.messaging.envelope import LONGEST_KEY


class State(StrEnum):
    """The state of the delivery of a message to one subscriber."""

    PENDING = "pending"
    # Claimed by a process until `due_at`.
    PROCESSING = "processing"
    COMPLETED = "completed"
    # Will be tried again at `due_at`.
    FAILED = "failed"
    # All attempts have failed. It stays until a person decides: `kernel messages abandoned`.
    ABANDONED = "abandoned"


class OutboxTable:
    """Messages of a module, and messages that a broker has brought it: a row for each subscriber.

    `class Outbox(OutboxTable, Base): __tablename__ = "outbox"` in models.py of the publisher.
    """

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    message_id: Mapped[str] = mapped_column(String(32))
    # A handler (`events.forget_image`), a module elsewhere, or the broker.
    subscriber: Mapped[str] = mapped_column(String(200))
    name: Mapped[str] = mapped_column(String(200))
    version: Mapped[int]
    key: Mapped[str | None] = mapped_column(String(LONGEST_KEY))
    # JSON.
    payload: Mapped[str] = mapped_column(Text)
    context: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(10))
    # Counted when an attempt begins, so that one that ends its process counts too.
    attempts: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # When it may be claimed: at once, after a pause, or at the end of a lease.
    due_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # Completed or abandoned.
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # Why the last attempt failed.
    error: Mapped[str | None] = mapped_column(Text)

    @declared_attr.directive
    def __table_args__(cls) -> tuple[Any, ...]:  # noqa: N805  # SQLAlchemy calls it with the class
        finished_at: Any = cls.finished_at
        open_only, done_only = finished_at.is_(None), finished_at.is_not(None)
        return (
            UniqueConstraint("message_id", "subscriber"),
            # Partial, so that completed rows do not slow polls down.
            Index(None, "due_at", "id", postgresql_where=open_only, sqlite_where=open_only),
            Index(None, "subscriber", "key", "id", postgresql_where=open_only, sqlite_where=open_only),
            Index(None, "state", "finished_at", postgresql_where=done_only, sqlite_where=done_only),
        )


class InboxTable:
    """Messages that the handlers of a module have handled, by which a second delivery is recognised.

    `class Inbox(InboxTable, Base): __tablename__ = "inbox"` in models.py of the subscriber.
    """

    message_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    subscriber: Mapped[str] = mapped_column(String(200), primary_key=True)
    handled_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class clock(FunctionElement[datetime]):  # noqa: N801  # a function of SQL
    """The time of the database, plus seconds. The clocks of processes may differ."""

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, seconds: Any = 0) -> None:
        super().__init__(cast(seconds, Float) if not isinstance(seconds, int) else literal(float(seconds), Float))


@compiles(clock, "postgresql")
def _postgresql_clock(element: clock, compiler: SQLCompiler, **options: Any) -> str:
    """Use clock_timestamp(), because now() is the time at which the transaction began."""
    [seconds] = element.clauses
    return f"(clock_timestamp() + {compiler.process(seconds, **options)} * interval '1 second')"


@compiles(clock, "sqlite")
def _sqlite_clock(element: clock, compiler: SQLCompiler, **options: Any) -> str:
    """Format the time as SQLAlchemy stores it, with six digits, because SQLite compares text."""
    [seconds] = element.clauses
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', {compiler.process(seconds, **options)} || ' seconds')"
