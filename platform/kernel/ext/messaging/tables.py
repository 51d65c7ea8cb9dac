"""The two tables that messages need. A module declares them on its own base, in its own migrations."""

from datetime import datetime
from enum import StrEnum
from types import ModuleType
from typing import Any

from sqlalchemy import Float, Index, String, Table, Text, UniqueConstraint, cast, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from kernel.database import BigId, UtcDateTime
from kernel.ext.messaging.envelope import LONGEST_KEY


class State(StrEnum):
    """What has become of a message on its way to one subscriber."""

    PENDING = "pending"
    # Somebody has taken it and has until `due_at`.
    PROCESSING = "processing"
    COMPLETED = "completed"
    # Will be tried again at `due_at`.
    FAILED = "failed"
    # Was tried as often as is allowed. It stays until somebody decides: `kernel messages abandoned`.
    ABANDONED = "abandoned"


class OutboxTable:
    """What a module tells, and what a broker has brought it: a row for each subscriber of each message.

    `class Outbox(OutboxTable, Base): __tablename__ = "outbox"` in the models.py of whoever publishes.
    """

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    message_id: Mapped[str] = mapped_column(String(32))
    # Whom it is for: `events.forget_image`, a handler; or the broker.
    subscriber: Mapped[str] = mapped_column(String(200))
    name: Mapped[str] = mapped_column(String(200))
    version: Mapped[int]
    key: Mapped[str | None] = mapped_column(String(LONGEST_KEY))
    # JSON, as the message and what goes along with it.
    payload: Mapped[str] = mapped_column(Text)
    context: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(10))
    # Counted when one begins, so that one that ends the process counts too.
    attempts: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # When it may be taken: at once, after a pause, or when the time of whoever took it is over.
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
            # Partial, so that what is done costs a poll nothing, however much there is of it.
            Index(None, "due_at", "id", postgresql_where=open_only, sqlite_where=open_only),
            Index(None, "subscriber", "key", "id", postgresql_where=open_only, sqlite_where=open_only),
            Index(None, "state", "finished_at", postgresql_where=done_only, sqlite_where=done_only),
        )


class InboxTable:
    """What a module's handlers have done: a second delivery of the same finds its row here and does nothing.

    `class Inbox(InboxTable, Base): __tablename__ = "inbox"` in the models.py of whoever subscribes.
    """

    message_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    subscriber: Mapped[str] = mapped_column(String(200), primary_key=True)
    handled_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


def table_of(models: ModuleType | None, kind: type[Any]) -> Table | None:
    """The table of this kind that a models.py declares; None if it declares none."""
    if models is None:
        return None
    found = [one for one in vars(models).values() if isinstance(one, type) and issubclass(one, kind)]
    own = [one for one in found if issubclass(one, DeclarativeBase)]
    return own[0].__table__ if own else None  # type: ignore[return-value]  # a mapped class stands for one table


class clock(FunctionElement[datetime]):  # noqa: N801  # a function of SQL
    """The database's time, so many seconds from now. Processes may disagree about theirs, this one is everybody's."""

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, seconds: Any = 0) -> None:
        super().__init__(cast(seconds, Float) if not isinstance(seconds, int) else literal(float(seconds), Float))


@compiles(clock, "postgresql")
def _postgresql_clock(element: clock, compiler: SQLCompiler, **options: Any) -> str:
    """Not now(), which stands still during a transaction."""
    [seconds] = element.clauses
    return f"(clock_timestamp() + {compiler.process(seconds, **options)} * interval '1 second')"


@compiles(clock, "sqlite")
def _sqlite_clock(element: clock, compiler: SQLCompiler, **options: Any) -> str:
    """As SQLAlchemy stores moments, which SQLite compares as text: with six digits behind the point."""
    [seconds] = element.clauses
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', {compiler.process(seconds, **options)} || ' seconds')"
