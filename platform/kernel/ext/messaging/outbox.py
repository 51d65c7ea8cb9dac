"""The outbox of a module: the publishing transaction writes rows, and the relay that claims a row delivers it."""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Float,
    Table,
    Text,
    and_,
    bindparam,
    case,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate, UpdateBase

from kernel.database import Database
from kernel.database.session import DatabaseSession, WriteSession, open_sessions
from kernel.ext.messaging.envelope import Envelope, PublishError
from kernel.ext.messaging.message import Message
from kernel.ext.messaging.tables import State, clock

CHANNEL = "kernel_outbox"
# The subscriber for everything behind a broker. Its messages are never abandoned because a broker is down.
BROKER = "broker"
# The class of the advisory locks of keys on PostgreSQL; any number that no other code uses.
_KEY_LOCKS = 20_583
_LONGEST_ERROR = 4000
# How many claiming statements are cached, one for each set of subscribers that can be served.
_KEPT_CLAIMS = 64


class Wanted(NamedTuple):
    """The messages that a subscriber can read: those of a name, up to a version. None: all."""

    name: str | None = None
    newest: int | None = None


class AttemptLimits(NamedTuple):
    """The lease of an attempt, and the number of attempts."""

    lease_seconds: float
    max_attempts: int


class Delivery(NamedTuple):
    """One message that is claimed for one attempt to deliver it to one subscriber."""

    id: int
    subscriber: str
    # The number of this attempt. If the row has another one, another process has taken it over.
    attempt: int
    state: State
    envelope: Envelope


class Outbox:
    """The outbox of one module, in its own database."""

    def __init__(
        self, module: str, database: Database, table: Table, *, notifies: bool = True, max_bytes: int = 1_000_000
    ) -> None:
        """`notifies`: tell the relays of other processes, where the database can (PostgreSQL).

        `max_bytes`: the largest message that may be published.
        """
        self.module = module
        self.max_bytes = max_bytes
        self.database = database
        self.table = table
        # The subscribers of messages by name. MessageBus sets it when it knows all modules.
        self.subscribers_of: Callable[[str], Iterable[str]] = lambda _: ()
        # Set when a row may be due.
        self.is_due = asyncio.Event()
        # Whether PostgreSQL notifies this process of messages that other processes publish.
        self.is_notified = False
        self._on_postgresql = database.writer.dialect.name == "postgresql"
        self._claims: dict[object, UpdateBase] = {}
        self._insert = self._insertion(notifies=notifies and self._on_postgresql)
        mine = and_(
            table.c.id == bindparam("of_id", type_=table.c.id.type),
            table.c.state == State.PROCESSING,
            table.c.attempts == bindparam("attempt", type_=table.c.attempts.type),
        )
        changed = update(table).where(mine).returning(table.c.id)
        error, pause = bindparam("why", type_=Text), clock(bindparam("pause_seconds", type_=Float))
        self._complete = changed.values(state=State.COMPLETED, finished_at=clock(), error=None)
        self._abandon = changed.values(state=State.ABANDONED, finished_at=clock(), error=error)
        self._fail = changed.values(state=State.FAILED, due_at=pause, error=error)
        self._give_back = self._fail.values(attempts=table.c.attempts - 1)

    async def add(self, session: DatabaseSession, envelope: Envelope, subscribers: Iterable[str]) -> None:
        """Insert a row for each subscriber in the transaction of the session. Existing rows stay unchanged."""
        if envelope.key is not None and self._on_postgresql:
            # Ids are assigned before the commit. The lock makes publishers of one key wait, so that ids follow commits.
            of_key = bindparam("of_key", f"{self.module}/{envelope.key}", type_=Text)
            lock = func.pg_advisory_xact_lock(_KEY_LOCKS, func.hashtext(of_key))
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
        """Let the relay of this process look for due rows now."""
        self.is_due.set()

    async def claim(self, subscribers: Mapping[str, Wanted], limit: int, limits: AttemptLimits) -> list[Delivery]:
        """Claim up to `limit` rows for an attempt, those that have waited longest first.

        `subscribers` are those that can be served here. A row without an attempt left, because the last one ended with
        its process, is returned as abandoned.
        """
        key = tuple(subscribers.items())
        if key not in self._claims:
            if len(self._claims) >= _KEPT_CLAIMS:
                self._claims.clear()
            self._claims[key] = self._claiming(subscribers)
        return await self._claimed(self._claims[key], {"most": limit, **limits._asdict()})

    async def claim_next(self, delivery: Delivery, wanted: Wanted, limits: AttemptLimits) -> list[Delivery]:
        """Claim the next row of the same key and subscriber, if there is one and it is due."""
        key = ("next", delivery.subscriber, wanted)
        if key not in self._claims:
            self._claims[key] = self._claiming({delivery.subscriber: wanted}, of_key=True)
        values = {"of_key": delivery.envelope.key, "most": 1, **limits._asdict()}
        return await self._claimed(self._claims[key], values)

    async def complete(self, delivery: Delivery) -> bool:
        """Complete a delivery. Return False if another process has taken it over."""
        return await self._finish(self._complete, delivery)

    async def fail(self, delivery: Delivery, error: str, pause_seconds: float | None) -> bool:
        """Let the message be tried again after the pause, or abandon it without one. Return as `complete`."""
        values: dict[str, Any] = {"why": error[:_LONGEST_ERROR]}
        if pause_seconds is None:
            return await self._finish(self._abandon, delivery, values)
        return await self._finish(self._fail, delivery, values | {"pause_seconds": pause_seconds})

    async def give_back(self, delivery: Delivery, error: str, pause_seconds: float) -> bool:
        """Let the message be tried again after the pause, and do not count this attempt."""
        values = {"why": error[:_LONGEST_ERROR], "pause_seconds": pause_seconds}
        return await self._finish(self._give_back, delivery, values)

    async def _finish(
        self, statement: ReturningUpdate[Any], delivery: Delivery, values: Mapping[str, Any] | None = None
    ) -> bool:
        place = {"of_id": delivery.id, "attempt": delivery.attempt}
        return bool(await self.database.run(statement, {**place, **(values or {})}))

    async def _claimed(self, claim: UpdateBase, values: Mapping[str, Any]) -> list[Delivery]:
        rows = await self.database.run(claim, values)
        return [
            Delivery(row[0], row[1], row[2], State(row[3]), _envelope(row[4:]))
            for row in sorted(rows, key=lambda row: row[0])
        ]

    def _insertion(self, *, notifies: bool) -> UpdateBase:
        # Import only the dialect in use: each imports those of all its drivers.
        insert = import_module(f"sqlalchemy.dialects.{self.database.writer.dialect.name}").insert
        fixed: dict[str, Any] = {"state": State.PENDING, "attempts": 0, "created_at": clock(), "due_at": clock()}
        statement = insert(self.table).values(fixed).on_conflict_do_nothing(index_elements=["message_id", "subscriber"])
        # Part of the same statement, which saves a round trip. PostgreSQL merges those of one transaction.
        notified = func.pg_notify(CHANNEL, self.module).cast(Text) if notifies else self.table.c.id
        returning: UpdateBase = statement.returning(notified)
        return returning

    def _claiming(self, subscribers: Mapping[str, Wanted], *, of_key: bool = False) -> UpdateBase:
        table, before = self.table, self.table.alias("before")
        may_be_served = or_(*(_fits(table, subscriber, wanted) for subscriber, wanted in subscribers.items()))
        first_of_key = (
            select(before.c.id)
            .where(before.c.subscriber == table.c.subscriber, before.c.key == table.c.key)
            .where(before.c.finished_at.is_(None))
            .order_by(before.c.id)
            .limit(1)
            .scalar_subquery()
        )
        is_next: ColumnElement[bool] = table.c.id == first_of_key
        if of_key:
            is_next = and_(table.c.key == bindparam("of_key", type_=Text), is_next)
        else:
            is_next = or_(table.c.key.is_(None), is_next)
        due = (
            select(table.c.id)
            # As a subquery, the time is read once, and the index is used.
            .where(table.c.finished_at.is_(None), table.c.due_at <= select(clock()).scalar_subquery())
            .where(may_be_served, is_next)
            .order_by(table.c.due_at, table.c.id)
            .limit(bindparam("most"))
            .with_for_update(skip_locked=True, of=table)
            .cte("due")
        )
        has_none_left = and_(
            table.c.attempts >= bindparam("max_attempts", type_=table.c.attempts.type), table.c.subscriber != BROKER
        )

        def unless_spent(value: Any, spent: Any) -> ColumnElement[Any]:
            return case((has_none_left, spent), else_=value)

        statement = update(table).where(table.c.id == due.c.id)
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


def _fits(table: Table, subscriber: str, wanted: Wanted) -> ColumnElement[bool]:
    conditions = [table.c.subscriber == subscriber]
    if wanted.name is not None:
        conditions.append(table.c.name == wanted.name)
    if wanted.newest is not None:
        conditions.append(table.c.version <= wanted.newest)
    return and_(*conditions)


def _envelope(columns: Any) -> Envelope:
    id_, name, version, key, payload, context = columns
    return Envelope(id=id_, name=name, version=version, key=key, payload=payload, context=json.loads(context))


async def publish(message: Message) -> None:
    """Deliver a message to all subscribers if and only if the current transaction commits.

    The current transaction is the innermost session that is open in this task: that of the request or of the handler,
    or that of `async with database.transaction()`. Raises PublishError outside of a transaction, for a message of
    another module, and for one that is too large or could not be read again.
    """
    session = next(open_sessions(), None)
    name = message.message_name()
    if not isinstance(session, WriteSession):
        raise PublishError(
            f"{name} is published outside of a transaction, with which it would be kept. GET and HEAD requests have "
            "none: publish in a POST, PUT, PATCH or DELETE, in a handler of a message, or inside of "
            "`async with database.transaction()`."
        )
    outbox: Outbox | None = session.values.get(Outbox)
    if outbox is None:
        raise PublishError(
            f"{name} is published by a module without an outbox: add "
            '`class Outbox(OutboxTable, Base): __tablename__ = "outbox"` to its models.py, and write the migration.'
        )
    owner = name.partition(".")[0]
    if owner != outbox.module:
        raise PublishError(f"{name} is a message of {owner}; {outbox.module} may publish its own only.")
    envelope = Envelope.of(message)
    if (size := len(envelope.to_json())) > outbox.max_bytes:
        raise PublishError(
            f"{name} has {size} bytes, more than the {outbox.max_bytes} of MESSAGING_MAX_MESSAGE_BYTES: keep what is "
            "large in your own tables, and publish its id."
        )
    if subscribers := tuple(outbox.subscribers_of(name)):
        await outbox.add(session, envelope, subscribers)
