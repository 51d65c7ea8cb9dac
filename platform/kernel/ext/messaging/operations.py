"""Inspect outboxes, and repair deliveries by hand: the functions behind `kernel messages`."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import and_, exists, func, or_, select, update

from kernel.ext.messaging.outbox import Outbox
from kernel.ext.messaging.tables import State, clock

_SHOWN = 200


class Backlog(NamedTuple):
    """The messages to one subscriber that are in one state."""

    module: str
    subscriber: str
    state: State
    messages: int
    # Of all of them together.
    attempts: int
    # The age of the oldest, by the database's clock.
    oldest_seconds: float
    # The newest version among them.
    newest: int


async def backlog(outbox: Outbox, *, with_completed: bool = False) -> list[Backlog]:
    """Count messages by subscriber and state. Completed messages are counted only on request, as there are many."""
    columns = outbox.table.c
    statement = (
        select(
            columns.subscriber,
            columns.state,
            func.count(),
            func.min(columns.created_at, type_=columns.created_at.type),
            func.sum(columns.attempts),
            clock(),
            func.max(columns.version),
        )
        .group_by(columns.subscriber, columns.state)
        .order_by(columns.subscriber, columns.state)
    )
    if not with_completed:
        is_abandoned = and_(columns.state == State.ABANDONED, columns.finished_at.is_not(None))
        statement = statement.where(or_(columns.finished_at.is_(None), is_abandoned))
    async with outbox.database.read() as session:
        rows = (await session.execute(statement)).all()
    return [
        Backlog(outbox.module, row[0], State(row[1]), row[2], int(row[4]), (row[5] - row[3]).total_seconds(), row[6])
        for row in rows
    ]


class Waiting(NamedTuple):
    """The messages that wait for one subscriber."""

    subscriber: str
    messages: int
    # How many are due for longer than `overdue_seconds`.
    overdue: int
    # How many a relay has claimed or will try again: if any, a relay runs.
    in_work: int
    # The newest version among them.
    newest: int


async def waiting(outbox: Outbox, overdue_seconds: float) -> list[Waiting]:
    """Count the waiting messages of an outbox, by subscriber."""
    columns = outbox.table.c
    is_overdue, is_taken = columns.due_at < clock(-overdue_seconds), columns.due_at >= clock()
    statement = (
        select(
            columns.subscriber,
            func.count(),
            func.count().filter(is_overdue),
            func.count().filter(is_taken),
            func.max(columns.version),
        )
        .where(columns.finished_at.is_(None))
        .group_by(columns.subscriber)
        .order_by(columns.subscriber)
    )
    async with outbox.database.read() as session:
        return [Waiting(*row) for row in (await session.execute(statement)).all()]


async def move(outbox: Outbox, subscriber: str, to: str) -> int:
    """Give the messages for a handler to its successor. Return how many."""
    columns, same = outbox.table.c, outbox.table.alias("same")
    has_it = exists().where(same.c.message_id == columns.message_id, same.c.subscriber == to)
    moved = update(outbox.table).where(columns.subscriber == subscriber, columns.state != State.COMPLETED, ~has_it)
    async with outbox.database.transaction() as session:
        found = (await session.scalars(moved.values(subscriber=to).returning(columns.id))).all()
    outbox.is_due.set()
    return len(found)


async def find(outbox: Outbox, states: Iterable[State], ids: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Return the newest rows in these states, or with these ids."""
    columns = outbox.table.c
    statement = select(outbox.table).order_by(columns.id.desc()).limit(_SHOWN)
    statement = statement.where(columns.id.in_(ids) if ids else columns.state.in_(states))
    async with outbox.database.read() as session:
        return [dict(row) for row in (await session.execute(statement)).mappings()]


async def retry(outbox: Outbox, ids: Sequence[int] = ()) -> list[int]:
    """Reset abandoned messages and make failed ones due, all or those with these ids. Return their ids."""
    columns = outbox.table.c
    chosen = [columns.id.in_(ids)] if ids else []
    anew = update(outbox.table).where(columns.state == State.ABANDONED, *chosen)
    soon = update(outbox.table).where(columns.state == State.FAILED, *chosen).values(due_at=clock())
    anew = anew.values(state=State.PENDING, attempts=0, due_at=clock(), finished_at=None)
    async with outbox.database.transaction() as session:
        found = [*await session.scalars(soon.returning(columns.id)), *await session.scalars(anew.returning(columns.id))]
    outbox.is_due.set()
    return sorted(found)


async def forget(outbox: Outbox, subscriber: str) -> int:
    """Delete the messages for a subscriber that no longer exists. Return how many."""
    columns = outbox.table.c
    async with outbox.database.transaction() as session:
        gone = outbox.table.delete().where(columns.subscriber == subscriber, columns.state != State.COMPLETED)
        return len((await session.scalars(gone.returning(columns.id))).all())
