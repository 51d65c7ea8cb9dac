"""One module's outbox: rows come in with the transaction that publishes, and go out by whoever claims them first."""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Float,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    case,
    exists,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.sql.dml import ReturningUpdate, UpdateBase

from kernel.database import Database
from kernel.database.session import LazySession, WriteSession, open_sessions
from kernel.messaging.envelope import Envelope
from kernel.messaging.message import Message
from kernel.messaging.tables import LONGEST_KEY, State, clock

CHANNEL = "kernel_outbox"
# The subscriber that stands for all that a broker reaches. It is tried until it takes a message: none is abandoned
# because a broker was down.
BROKER = "broker"
# Where PostgreSQL keeps the locks of those who publish with a key: any number will do that nobody else uses.
_KEY_LOCKS = 20_583
_LONGEST_ERROR = 4000


class PublishError(Exception):
    """A message that cannot be published here; says what to do."""


class Delivery(NamedTuple):
    """One message on its way to one subscriber, taken for one attempt."""

    id: int
    subscriber: str
    # Of this attempt; who has another number has been overtaken.
    attempt: int
    state: State
    envelope: Envelope


class Outbox:
    """The outbox of one module, in its own database."""

    def __init__(self, module: str, database: Database, table: Table, *, notifies: bool = True) -> None:
        """`notifies`: tell the relays of other processes, where the database can (PostgreSQL)."""
        self.module = module
        self.database = database
        self.table = table
        # Who gets the message of a name. The kernel fills it in when it knows all modules.
        self.subscribers_of: Callable[[str], Iterable[str]] = lambda _: ()
        # Something may be there to be taken.
        self.is_due = asyncio.Event()
        self._on_postgresql = database.writer.dialect.name == "postgresql"
        self._claims: dict[tuple[tuple[str, int | None], ...], UpdateBase] = {}
        self._insert = self._insertion(notifies=notifies and self._on_postgresql)
        mine = and_(
            table.c.id == bindparam("of_id", type_=table.c.id.type),
            table.c.state == State.PROCESSING,
            table.c.attempts == bindparam("attempt", type_=table.c.attempts.type),
        )
        changed = update(table).where(mine).returning(table.c.id)
        self._complete = changed.values(state=State.COMPLETED, finished_at=clock(), error=None)
        error = bindparam("why", type_=Text)
        self._abandon = changed.values(state=State.ABANDONED, finished_at=clock(), error=error)
        pause = clock(bindparam("pause_seconds", type_=Float))
        self._fail = changed.values(state=State.FAILED, due_at=pause, error=error)

    async def add(self, session: LazySession, envelope: Envelope, subscribers: Iterable[str]) -> None:
        """A row for each of the subscribers, in the session's transaction. What is there already stays as it is."""
        if envelope.key is not None and self._on_postgresql:
            # Numbers are given before the commit: who publishes under the same key waits, so that they follow commits.
            lock = func.pg_advisory_xact_lock(
                _KEY_LOCKS, func.hashtext(bindparam("of_key", f"{self.module}/{envelope.key}", type_=Text))
            )
            await session.rows(select(lock.cast(Text)))
        for subscriber in subscribers:
            values = {
                "message_id": envelope.id,
                "subscriber": subscriber,
                "name": envelope.name,
                "version": envelope.version,
                "key": envelope.key,
                "payload": envelope.payload,
                "context": json.dumps(envelope.context),
            }
            await session.rows(self._insert, values)
        if self.wake not in session.after_commit:
            session.after_commit.append(self.wake)

    async def wake(self) -> None:
        """Have the relay of this process look at once."""
        self.is_due.set()

    async def claim(
        self, subscribers: Mapping[str, int | None], *, limit: int, seconds: float, max_attempts: int
    ) -> list[Delivery]:
        """Take up to `limit` rows for an attempt of so many seconds, those that have waited longest first.

        `subscribers` are those that can be served here, each with the newest version that it can read. What has no
        attempt left, because the last one ended with its process, comes back abandoned.
        """
        key = tuple(subscribers.items())
        if key not in self._claims:
            self._claims[key] = self._claiming(subscribers)
        values = {"most": limit, "lease_seconds": seconds, "max_attempts": max_attempts}
        rows = await self.database.run(self._claims[key], values)
        return [
            Delivery(row[0], row[1], row[2], State(row[3]), _envelope(row[4:]))
            for row in sorted(rows, key=lambda row: row[0])
        ]

    async def complete(self, delivery: Delivery) -> bool:
        """Whether it was still ours to complete."""
        return await self._finish(self._complete, delivery)

    async def fail(self, delivery: Delivery, error: str, pause_seconds: float | None) -> bool:
        """Try again after the pause; without one it is abandoned. Whether it was still ours."""
        values: dict[str, Any] = {"why": error[:_LONGEST_ERROR]}
        if pause_seconds is None:
            return await self._finish(self._abandon, delivery, values)
        return await self._finish(self._fail, delivery, values | {"pause_seconds": pause_seconds})

    async def _finish(
        self, statement: ReturningUpdate[Any], delivery: Delivery, values: Mapping[str, Any] | None = None
    ) -> bool:
        place = {"of_id": delivery.id, "attempt": delivery.attempt}
        return bool(await self.database.run(statement, {**place, **(values or {})}))

    def _insertion(self, *, notifies: bool) -> UpdateBase:
        insert = postgresql_insert if self._on_postgresql else sqlite_insert
        fixed: dict[str, Any] = {"state": State.PENDING, "attempts": 0, "created_at": clock(), "due_at": clock()}
        statement = insert(self.table).values(fixed).on_conflict_do_nothing(index_elements=["message_id", "subscriber"])
        # A part of the same statement: no round trip of its own. Several in one transaction are sent as one.
        told = func.pg_notify(CHANNEL, self.module).cast(Text) if notifies else self.table.c.id
        return statement.returning(told)

    def _claiming(self, subscribers: Mapping[str, int | None]) -> UpdateBase:
        table, before = self.table, self.table.alias("before")
        may_be_served = or_(
            *(
                and_(table.c.subscriber == name, *([] if newest is None else [table.c.version <= newest]))
                for name, newest in subscribers.items()
            )
        )
        is_next = or_(
            table.c.key.is_(None),
            ~exists(
                select(before.c.id).where(
                    before.c.subscriber == table.c.subscriber,
                    before.c.key == table.c.key,
                    before.c.id < table.c.id,
                    before.c.finished_at.is_(None),
                )
            ),
        )
        due: Select[Any] = (
            select(table.c.id)
            .where(table.c.finished_at.is_(None), table.c.due_at <= clock(), may_be_served, is_next)
            .order_by(table.c.due_at, table.c.id)
            .limit(bindparam("most"))
            .with_for_update(skip_locked=True, of=table)
        )
        taken = due.cte("due")
        has_none_left = and_(
            table.c.attempts >= bindparam("max_attempts", type_=table.c.attempts.type), table.c.subscriber != BROKER
        )

        def unless_spent(value: Any, spent: Any) -> ColumnElement[Any]:
            return case((has_none_left, spent), else_=value)

        statement = update(table).where(table.c.id == taken.c.id)
        return statement.values(
            state=unless_spent(State.PROCESSING, State.ABANDONED),
            attempts=unless_spent(table.c.attempts + 1, table.c.attempts),
            due_at=clock(bindparam("lease_seconds", type_=Float)),
            finished_at=unless_spent(None, clock()),
            error=unless_spent(table.c.error, func.coalesce(table.c.error, "the process ended during the attempt")),
        ).returning(
            table.c.id, table.c.subscriber, table.c.attempts, table.c.state,
            table.c.message_id, table.c.name, table.c.version, table.c.key, table.c.payload, table.c.context,
        )  # fmt: skip


def _envelope(columns: Any) -> Envelope:
    id_, name, version, key, payload, context = columns
    return Envelope(id=id_, name=name, version=version, key=key, payload=payload, context=json.loads(context))


async def publish(message: Message) -> None:
    """Tell whoever subscribes, if and only if the transaction that we are in commits.

    Raises PublishError outside of a transaction, and for a message that is another module's.
    """
    session = next(open_sessions(), None)
    name = message.message_name()
    if not isinstance(session, WriteSession):
        raise PublishError(
            f"{name} is published outside of a transaction, with which it would be kept. GET and HEAD requests have "
            "none: publish in a POST, PUT, PATCH or DELETE, in a handler of a message, or inside of "
            "`async with database.transaction()`."
        )
    outbox = session.outbox
    if not isinstance(outbox, Outbox):
        raise PublishError(
            f"{name} is published by a module without an outbox: add "
            '`class Outbox(OutboxTable, Base): __tablename__ = "outbox"` to its models.py, and write the migration.'
        )
    owner = name.partition(".")[0]
    if owner != outbox.module:
        raise PublishError(f"{name} is a message of {owner}; {outbox.module} may publish its own only.")
    envelope = Envelope.of(message)
    if envelope.key is not None and len(envelope.key) > LONGEST_KEY:
        why = f"the field {message.message_key}, which is its key, has more than {LONGEST_KEY} characters"
        raise PublishError(f"{name} cannot be published: {why}.")
    if subscribers := tuple(outbox.subscribers_of(name)):
        await outbox.add(session, envelope, subscribers)
