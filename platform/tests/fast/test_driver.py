"""Statements on the driver and statements through SQLAlchemy: the same text, values, defaults and errors."""

import asyncio
import contextlib
import datetime as dt
import enum
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.database import AsyncDBPool, Database, DatabaseUnavailable, Timestamps, UtcDateTime, Versioned, new_metadata
from kernel.database.errors import ConcurrentUse, TransactionAborted, violation_of
from kernel.database.runner import Rows
from kernel.ext.fast import extension as fast
from kernel.ext.fast.session import FastSession
from kernel.ext.paging import PagedRepository, PageRequest
from kernel.ext.pool import bounded_pool
from kernel.ext.pool import install as bounded
from kernel.ext.pool.settings import PoolSettings
from kernel.settings import DatabaseConfig
from tests.core.waiting import end_connections, until_driver_knows, until_running, until_true


class Colour(enum.Enum):
    RED = "r"
    GREEN = "g"


class Reversed(sa.TypeDecorator[str]):
    """A type that converts in both directions, None included."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str:
        return "none" if value is None else value[::-1]

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value in {None, "none"} else str(value)[::-1]


text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
integers = st.integers(-(2**31), 2**31 - 1)
moments = st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 12, 31))  # noqa: DTZ001  # naive, as the column is
zoned = moments.map(lambda moment: moment.replace(tzinfo=dt.UTC))
jsons = st.recursive(
    st.none() | st.booleans() | integers | text | st.floats(allow_nan=False, allow_infinity=False, width=32),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
decimals = st.decimals(-(10**6), 10**6, places=3)

# For each column its type and valid values.
EVERYWHERE: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "small": (sa.SmallInteger, st.integers(-(2**15), 2**15 - 1)),
    "whole": (sa.Integer, integers),
    "big": (sa.BigInteger, st.integers(-(2**63), 2**63 - 1)),
    "exact": (sa.Numeric(12, 3), decimals),
    "exact_as_float": (sa.Numeric(12, 3, asdecimal=False), decimals.map(float)),
    "real": (sa.Double, st.floats(allow_nan=False, allow_infinity=False)),
    "real_as_decimal": (sa.Double(asdecimal=True), st.integers(-1000, 1000).map(Decimal)),
    "yes": (sa.Boolean, st.booleans()),
    "short": (sa.String(20), text),
    "long": (sa.Text, text),
    "bytes": (sa.LargeBinary, st.binary(max_size=20)),
    "day": (sa.Date, st.dates()),
    "hour": (sa.Time, st.times()),
    "moment": (sa.DateTime, moments),
    "moment_in_utc": (UtcDateTime, zoned),
    "span": (sa.Interval, st.timedeltas(dt.timedelta(-10_000), dt.timedelta(10_000))),
    "unique_id": (sa.Uuid, st.uuids()),
    "unique_text": (sa.Uuid(as_uuid=False), st.uuids().map(str)),
    "document": (sa.JSON, jsons),
    "colour": (sa.Enum(Colour, native_enum=False), st.sampled_from(Colour)),
    "decorated": (Reversed(30), text),
    "pickled": (sa.PickleType, st.tuples(integers, text)),
}
ON_POSTGRESQL: dict[str, tuple[Any, st.SearchStrategy[Any]]] = EVERYWHERE | {
    "zoned": (sa.DateTime(timezone=True), zoned),
    "native": (sa.Enum(Colour, name="colour_type"), st.sampled_from(Colour)),
    "binary_document": (pg.JSONB, jsons),
    "list": (sa.ARRAY(sa.Integer), st.lists(integers | st.none(), max_size=4)),
    "texts": (pg.ARRAY(sa.Text), st.lists(text, max_size=4)),
    "colours": (pg.ARRAY(sa.Enum(Colour, name="colour_type")), st.lists(st.sampled_from(Colour), max_size=3)),
    "matrix": (
        pg.ARRAY(sa.Integer, dimensions=2),
        st.lists(st.tuples(integers, integers).map(list), min_size=1, max_size=2),
    ),
    "range": (pg.INT4RANGE, st.tuples(st.integers(0, 9), st.integers(10, 99)).map(lambda ends: pg.Range(*ends))),
    "address": (pg.INET, st.ip_addresses(v=4).map(str)),
    "bits": (pg.BIT(4), st.integers(0, 15).map(lambda bits: pg.BitString(f"{bits:04b}"))),
}


class Ways:
    """One table with all types, and both ways to access it."""

    def __init__(self, pool: AsyncDBPool, columns: dict[str, tuple[Any, st.SearchStrategy[Any]]]) -> None:
        metadata = new_metadata()
        self.table = sa.Table(
            "values",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            *(sa.Column(name, kind, nullable=True) for name, (kind, _) in columns.items()),
        )
        self.columns = columns
        self.pool = pool
        self.database = pool.database("events")
        self.runner = asyncio.Runner()

    async def make(self) -> None:
        async with self.database.writer.begin() as connection:
            if self.database.placement.schema:
                await connection.execute(sa.text("CREATE SCHEMA events"))
            await connection.run_sync(self.table.metadata.create_all)

    async def directly(self, statement: Any, params: dict[str, Any] | None = None, *, writes: bool = False) -> Rows:
        opened = self.database.transaction() if writes else self.database.read()
        async with opened as session:
            assert isinstance(session, FastSession)
            rows = await session.fetch(statement, params)
            assert rows is not None, "the statement went through SQLAlchemy"
            return rows

    async def by_sqlalchemy(self, statement: Any, params: dict[str, Any] | None = None) -> Rows:
        async with self.database.transaction() as session:
            return list((await session.execute(statement, params)).all())


def alike(direct: Rows, by_sqlalchemy: Rows) -> bool:
    """Return whether values and their types are equal."""
    ours, theirs = [tuple(row) for row in direct], [tuple(row) for row in by_sqlalchemy]
    return ours == theirs and [[*map(type, row)] for row in ours] == [[*map(type, row)] for row in theirs]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def ways(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[str], URL]
) -> Iterator[Ways]:
    on_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path_factory.mktemp('direct')}" if on_sqlite else str(new_database("direct"))
    pool = AsyncDBPool(DatabaseConfig(url=url), {}, Path("/"))
    bounded.install(pool, PoolSettings())
    fast.install(pool)
    ways = Ways(pool, EVERYWHERE if on_sqlite else ON_POSTGRESQL)
    with ways.runner as runner:
        runner.run(ways.make())
        yield ways
        runner.run(pool.close())


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_values_of_every_type_are_written_and_read_equally_both_ways(ways: Ways, data: st.DataObject) -> None:
    values = {name: data.draw(st.none() | kind, label=name) for name, (_, kind) in ways.columns.items()}
    table = ways.table
    chosen = data.draw(st.sampled_from(sorted(ways.columns)))

    async def compare() -> None:
        stored = await ways.by_sqlalchemy(sa.insert(table).values(values).returning(table.c.id))
        [[id_]] = stored
        everything = sa.select(table).where(table.c.id == id_)
        assert alike(await ways.directly(everything), await ways.by_sqlalchemy(everything))
        # Parameters: each value must find the row, both ways.
        if values[chosen] is not None and chosen not in {"document", "binary_document", "pickled", "real"}:
            by_value = sa.select(table.c.id, table.c[chosen]).where(table.c[chosen] == values[chosen])
            by_value = by_value.where(table.c.id == id_)
            found = await ways.directly(by_value)
            assert alike(found, await ways.by_sqlalchemy(by_value))
            assert len(found) == 1

    ways.runner.run(compare())


@pytest.mark.slow
@pytest.mark.parametrize("ways", ["postgresql"], indirect=True)  # On SQLite, only SQLAlchemy writes.
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_driver_writes_the_same_values_as_sqlalchemy(ways: Ways, data: st.DataObject) -> None:
    values = {name: data.draw(st.none() | kind, label=name) for name, (_, kind) in ways.columns.items()}
    table = ways.table

    async def compare() -> None:
        [ours] = await ways.directly(sa.insert(table).returning(table), values, writes=True)
        [theirs] = await ways.by_sqlalchemy(sa.insert(table).values(values).returning(table))
        assert alike([ours[1:]], [theirs[1:]])
        [stored] = await ways.by_sqlalchemy(sa.select(table).where(table.c.id == ours[0]))
        assert alike([ours], [stored])

    ways.runner.run(compare())


# Projections of the repository


class Base(DeclarativeBase):
    metadata = new_metadata()


class Note(Timestamps, Versioned, Base):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    words: Mapped[str] = mapped_column(sa.String(50), unique=True)
    # An attribute with another name than its column.
    kind: Mapped[str] = mapped_column("type", sa.String(10), default="plain")
    length: Mapped[int] = mapped_column(default=lambda context: len(context.get_current_parameters()["words"]))


class Reminder(Timestamps, Versioned, Base):
    __tablename__ = "reminders"

    id: Mapped[int] = mapped_column(primary_key=True)
    words: Mapped[str] = mapped_column(sa.String(50), unique=True)
    kind: Mapped[str] = mapped_column("type", sa.String(10), default="plain")


class ReminderOut(BaseModel):
    id: int
    words: str
    kind: str
    version: int


class Reminders(PagedRepository[Reminder, int]):
    pass


async def opened(url: str, settings: PoolSettings | None = None, **options: Any) -> AsyncDBPool:
    pool = AsyncDBPool(DatabaseConfig(url=url, **options), {}, Path("/"))
    bounded.install(pool, settings or PoolSettings())
    fast.install(pool)
    database = pool.database("events")
    async with database.writer.begin() as connection:
        if database.placement.schema:
            await connection.execute(sa.text("CREATE SCHEMA IF NOT EXISTS events"))
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
    return pool


@pytest.fixture
async def pool(new_database: Callable[[str], URL]) -> AsyncIterator[AsyncDBPool]:
    pool = await opened(new_database("notes").render_as_string(hide_password=False), pool_size=2, max_overflow=2)
    yield pool
    await pool.close()


@pytest.fixture
def database(pool: AsyncDBPool) -> Database:
    return pool.database("events")


def woken(session: AsyncSession) -> bool:
    assert isinstance(session, FastSession)
    return session.uses_orm


async def test_projections_of_a_repository_do_not_start_the_orm(database: Database) -> None:
    async with database.transaction() as session:
        reminders = Reminders(Reminder, session)
        made = await reminders.create(into=ReminderOut, words="one")
        assert (made.kind, made.version) == ("plain", 1)
        changed = await reminders.update(made.id, into=ReminderOut, expected_version=1, kind="loud")
        assert changed is not None
        assert (changed.kind, changed.version) == ("loud", 2)
        assert await reminders.exists(made.id)
        assert not woken(session)
    async with database.read() as session:
        reminders = Reminders(Reminder, session)
        assert await reminders.get_by_id(made.id, into=ReminderOut) == changed
        assert (await reminders.page(PageRequest(), ReminderOut, Reminder.words == "one")).items == [changed]
        assert await reminders.count(Reminder.kind == "loud") == 1
        assert not woken(session)
    async with database.transaction() as session:
        assert await Reminders(Reminder, session).delete(made.id, expected_version=2)
        assert not woken(session)


async def test_statements_and_the_orm_share_one_transaction_in_any_order(database: Database) -> None:
    async with database.transaction() as session:
        reminders = Reminders(Reminder, session)
        first = await reminders.create(into=ReminderOut, words="by statement")
        entity = await reminders.get_by_id(first.id)
        assert entity is not None, "the ORM does not see the row of the statement"
        entity.words = "by the ORM"
        session.add(Reminder(words="added"))
        # From here on the session has pending changes, which statements must see.
        assert await reminders.count(Reminder.words != "by statement") == 2
        last = await reminders.create(into=ReminderOut, words="last")
    async with database.read() as session:
        words = [one.words for one in await Reminders(Reminder, session).get_all(into=ReminderOut)]
    assert words == ["by the ORM", "added", "last"]
    assert last.id == 3


@pytest.mark.parametrize("wakes", [False, True])
async def test_an_exception_rolls_back_statements_with_or_without_the_orm(database: Database, *, wakes: bool) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with database.transaction() as session:
            await Reminders(Reminder, session).create(into=ReminderOut, words="gone")
            if wakes:
                session.add(Reminder(words="gone, too"))
                await session.flush()
            raise ZeroDivisionError
    async with database.read() as session:
        assert await Reminders(Reminder, session).count() == 0
    assert in_use(database) == 0


def in_use(database: Database) -> int:
    pool: Any = database.writer.sync_engine.pool
    return int(pool.checkedout())


def idle(database: Database) -> int:
    pool: Any = database.writer.sync_engine.pool
    return sum(entry.dbapi_connection is not None for entry in pool._pool.queue)


async def test_errors_have_sqlalchemys_classes_and_hide_values(database: Database) -> None:
    async with database.transaction() as session:
        await Reminders(Reminder, session).create(into=ReminderOut, words="secret")
    with pytest.raises(IntegrityError) as caught:
        async with database.transaction() as session:
            await Reminders(Reminder, session).create(into=ReminderOut, words="secret")
    assert violation_of(caught.value) == "unique"
    assert caught.value.params is None
    with pytest.raises(DBAPIError) as too_long:
        async with database.transaction() as session:
            await Reminders(Reminder, session).create(into=ReminderOut, words="x" * 51)
    assert violation_of(too_long.value) == "value"
    with pytest.raises(StatementError, match="time zone"):
        async with database.read() as session:
            await Reminders(Reminder, session).count(Reminder.created_at > dt.datetime(2030, 1, 1))  # noqa: DTZ001
    with pytest.raises(TypeError, match="no column 'colour'"):
        async with database.transaction() as session:
            await Reminders(Reminder, session).create(into=ReminderOut, words="x", colour="red")
    assert in_use(database) == 0


async def test_statements_that_need_sqlalchemy_go_through_it(database: Database) -> None:
    class NoteOut(BaseModel):
        words: str
        length: int

    async with database.transaction() as session:
        notes = PagedRepository[Note, int](Note, session)
        # A default that depends on other values needs SQLAlchemy's context.
        assert (await notes.create(into=NoteOut, words="four")).length == 4
        assert woken(session)
    async with database.transaction() as session:
        # An expression is not a parameter.
        changed = await PagedRepository[Note, int](Note, session).update(1, into=NoteOut, words=sa.func.upper("five!"))
        assert changed is not None
        assert changed.words == "FIVE!"
        assert woken(session)
    async with database.read() as session:
        # IN has as many parameters as values.
        notes = PagedRepository[Note, int](Note, session)
        assert len(await notes.all(notes.select().where(Note.id.in_([1, 2, 3])), into=NoteOut)) == 1
        assert woken(session)


async def test_a_failing_commit_raises_and_returns_the_connection(database: Database) -> None:
    async with database.writer.begin() as connection:
        await connection.execute(
            sa.text("ALTER TABLE events.reminders ADD CONSTRAINT later UNIQUE (type) DEFERRABLE INITIALLY DEFERRED")
        )

    async def write_two() -> None:
        async with database.transaction() as session:
            for words in ("one", "two"):
                await Reminders(Reminder, session).create(into=ReminderOut, words=words)

    with pytest.raises(IntegrityError):
        await write_two()
    async with database.read() as session:
        assert await Reminders(Reminder, session).count() == 0
    assert in_use(database) == 0


# Statements of one shape


async def test_conditions_of_one_shape_share_a_statement_and_keep_their_values(database: Database) -> None:
    async with database.transaction() as session:
        for number in range(6):
            await Reminders(Reminder, session).create(
                into=ReminderOut, words=f"n{number}", kind="even" if number % 2 == 0 else "odd"
            )

    async def find(kind: str, least: int, **place: Any) -> list[str]:
        async with database.read() as session:
            page = await Reminders(Reminder, session).page(
                PageRequest(**place), ReminderOut, Reminder.kind == kind, Reminder.id >= least
            )
            assert not woken(session)
            assert page.total in {None, len(page.items)}
            return [one.words for one in page.items]

    assert await find("even", 0) == ["n0", "n2", "n4"]
    assert await find("odd", 4) == ["n3", "n5"]
    assert await find("even", 4, limit=1, cursor="") == ["n4"]


async def test_conditions_that_share_a_value_are_not_reused_for_others(database: Database) -> None:
    async with database.transaction() as session:
        for words, kind in (("a", "b"), ("b", "a"), ("b2", "b")):
            await Reminders(Reminder, session).create(into=ReminderOut, words=words, kind=kind)

    async def find(kind: Any, other_than: Any) -> list[str]:
        async with database.read() as session:
            conditions = (Reminder.kind == kind, Reminder.words != other_than)
            page = await Reminders(Reminder, session).page(PageRequest(), ReminderOut, *conditions)
            return [one.words for one in page.items]

    shared = sa.literal("b")
    assert await find(shared, shared) == ["a", "b2"]
    assert await find(sa.literal("b"), sa.literal("a")) == ["b2"]
    assert await find(shared, shared) == ["a", "b2"]


async def test_a_repository_that_refines_select_refines_every_read(database: Database) -> None:
    class Loud(Reminders):
        def select(self) -> sa.Select[Reminder]:
            return super().select().where(Reminder.kind == "loud")

    async with database.transaction() as session:
        for number, kind in enumerate(("loud", "plain", "loud"), 1):
            await Reminders(Reminder, session).create(into=ReminderOut, words=f"n{number}", kind=kind)
    async with database.read() as session:
        assert (await Reminders(Reminder, session).page(PageRequest(), ReminderOut)).total == 3
        loud = Loud(Reminder, session)
        page = await loud.page(PageRequest(), ReminderOut)
        assert ([one.words for one in page.items], page.total) == (["n1", "n3"], 2)
        assert await loud.get_by_id(2, into=ReminderOut) is None
        assert (await loud.count(), await loud.exists(2), await loud.exists(1)) == (2, False, True)


# Connections


@pytest.mark.parametrize("round_", range(4))
async def test_statements_never_see_a_connection_that_was_killed_while_idle(database: Database, round_: int) -> None:
    async def read() -> int:
        async with database.read() as session:
            return await Reminders(Reminder, session).count()

    async def write() -> None:
        async with database.transaction() as session:
            await Reminders(Reminder, session).create(into=ReminderOut, words=str(uuid.uuid4()))

    await asyncio.gather(read(), write())
    assert end_connections(database.placement.url) == 2
    if round_ >= 2:
        await until_driver_knows(database.writer.sync_engine.pool)
    first, second = (read, write) if round_ % 2 else (write, read)
    await first()
    await second()
    await asyncio.gather(read(), write())
    assert await read() == 3
    assert in_use(database) == 0


@pytest.mark.alone
async def test_a_ping_detects_a_connection_that_a_firewall_dropped(new_database: Callable[[str], URL]) -> None:
    """Simulated: the server's process is stopped, so that it sends no answer."""
    url = new_database("silent")
    pool = await opened(
        url.render_as_string(hide_password=False),
        PoolSettings(pool_ping_after_idle_seconds=0.2),
        connect_timeout_seconds=0.5,
    )
    database = pool.database("events")

    async def backend() -> int:
        async with database.read() as session:
            assert isinstance(session, FastSession)
            rows = await session.fetch(sa.select(sa.func.pg_backend_pid()))
            assert rows
            return int(rows[0][0])

    stopped = await backend()
    assert await backend() == stopped
    await asyncio.sleep(0.3)  # Longer than pool_ping_after_idle_seconds: the next use pings.
    os.kill(stopped, signal.SIGSTOP)
    try:
        started = time.monotonic()
        assert await backend() != stopped
        assert time.monotonic() - started < 1.5
    finally:
        os.kill(stopped, signal.SIGCONT)
    await pool.close()


async def test_a_cancelled_statement_closes_its_connection(database: Database) -> None:
    async def slow(*, writes: bool) -> None:
        async with database.transaction() if writes else database.read() as session:
            assert isinstance(session, FastSession)
            await session.fetch(sa.select(sa.func.pg_sleep(30).cast(sa.Text)))

    for writes in (False, True):
        task = asyncio.create_task(slow(writes=writes))
        await until_running(database.placement.url, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (in_use(database), idle(database)) == (0, 0)
        async with database.transaction() as session:
            await Reminders(Reminder, session).create(into=ReminderOut, words=f"after {writes}")


async def test_a_transaction_with_a_cancelled_statement_never_commits(database: Database) -> None:
    async def impatient(then: str) -> None:
        async with database.transaction() as session:
            assert isinstance(session, FastSession)
            reminders = Reminders(Reminder, session)
            await reminders.create(into=ReminderOut, words=f"first {then}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await session.fetch(sa.select(sa.func.pg_sleep(30).cast(sa.Text)))
            if then == "writes":
                with pytest.raises(TransactionAborted):
                    await reminders.create(into=ReminderOut, words="second")
            elif then == "asks the ORM":
                with pytest.raises(TransactionAborted):
                    await session.get(Reminder, 1)

    for then in ("does nothing", "writes", "asks the ORM"):
        with pytest.raises(TransactionAborted):
            await impatient(then)
    async with database.read() as session:
        assert await Reminders(Reminder, session).count() == 0
    assert in_use(database) == 0


async def test_a_statement_that_times_out_closes_its_connection(new_database: Callable[[str], URL]) -> None:
    pool = await opened(new_database("late").render_as_string(hide_password=False), command_timeout_seconds=0.2)
    database = pool.database("events")

    async def slow(*, writes: bool) -> None:
        async with database.transaction() if writes else database.read() as session:
            assert isinstance(session, FastSession)
            await session.fetch(sa.select(sa.func.pg_sleep(30).cast(sa.Text)))

    for writes in (False, True):
        with pytest.raises(DatabaseUnavailable, match="no answer"):
            await slow(writes=writes)
        assert (in_use(database), idle(database)) == (0, 0)
    await pool.close()


async def test_a_session_refuses_a_second_statement_while_one_is_running(database: Database) -> None:
    async def at_once() -> None:
        async with database.transaction() as session:
            reminders = Reminders(Reminder, session)
            await asyncio.gather(*(reminders.create(into=ReminderOut, words=words) for words in ("one", "two")))

    with pytest.raises(ConcurrentUse, match="one statement after the other"):
        await at_once()

    async def leaves_one_behind() -> None:
        async with database.transaction() as session:
            assert isinstance(session, FastSession)
            await Reminders(Reminder, session).create(into=ReminderOut, words="written")
            task = asyncio.create_task(session.fetch(sa.select(sa.func.pg_sleep(30).cast(sa.Text))))  # type: ignore[arg-type]  # a coroutine
            await until_running(database.placement.url, 1)
            left.append(task)
            raise ZeroDivisionError

    left: list[asyncio.Task[Any]] = []
    with pytest.raises(ZeroDivisionError):
        await leaves_one_behind()
    with pytest.raises(DatabaseUnavailable):
        await left[0]
    async with database.read() as session:
        reminders = Reminders(Reminder, session)
        # Reads may run in parallel: each statement has a connection of its own.
        assert await asyncio.gather(*(reminders.count() for _ in range(4))) == [0] * 4
    assert in_use(database) == 0
    pool: Any = database.writer.sync_engine.pool
    assert pool.usage()[0] == 0, "no connection may be returned twice"


async def test_the_caller_that_has_waited_longest_gets_the_next_connection(
    pool: AsyncDBPool, database: Database
) -> None:
    """40 callers need one of 2 + 2 connections for a while: none is skipped."""
    served: list[int] = []

    async def ask(number: int) -> None:
        async with database.read() as session:
            assert isinstance(session, FastSession)
            await session.fetch(sa.select(sa.func.pg_sleep(0.01).cast(sa.Text)))
            served.append(number)

    await asyncio.gather(*(ask(-1) for _ in range(4)))  # The time to open connections does not matter here.
    served.clear()
    tasks = []
    for number in range(40):
        tasks.append(asyncio.create_task(ask(number)))
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    # On a busy machine one of the four may be slow. A skipped caller would be the last.
    assert all(abs(place - number) <= 10 for place, number in enumerate(served)), served
    assert in_use(database) == 0


class Clock:
    """The clock of a pool, which the test advances."""

    def __init__(self) -> None:
        self.seconds = time.monotonic()

    def monotonic(self) -> float:
        return self.seconds

    def time(self) -> float:
        return time.time()


async def test_connections_above_the_pools_size_are_kept_while_they_are_needed(
    new_database: Callable[[str], URL], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(bounded_pool, "time", clock)
    url = new_database("burst").render_as_string(hide_password=False)
    pool = await opened(url, PoolSettings(pool_overflow_lingers_seconds=0.2), pool_size=1, max_overflow=3)
    database = pool.database("events")

    async def backend() -> int:
        async with database.read() as session:
            assert isinstance(session, FastSession)
            rows = await session.fetch(sa.select(sa.func.pg_backend_pid(), sa.func.pg_sleep(0.01).cast(sa.Text)))
            assert rows
            return int(rows[0][0])

    first = set(await asyncio.gather(*(backend() for _ in range(12))))
    assert len(first) == 4
    assert set(await asyncio.gather(*(backend() for _ in range(12)))) == first, (
        "no connection may be closed between the two"
    )
    assert idle(database) == 4
    clock.seconds += 0.15
    await asyncio.gather(*(backend() for _ in range(12)))
    clock.seconds += 0.15
    connections: Any = database.writer.sync_engine.pool
    connections._close_surplus()
    assert idle(database) == 4, "they were in use since then"
    clock.seconds += 0.15
    await until_true(lambda: idle(database) == 1)  # The timer of the pool closes those above its size.
    assert await backend() in first
    assert len(set(await asyncio.gather(*(backend() for _ in range(4))))) == 4
    await pool.close()


@pytest.mark.alone
async def test_a_pool_that_stays_full_answers_in_time(new_database: Callable[[str], URL]) -> None:
    pool = await opened(
        new_database("full").render_as_string(hide_password=False),
        pool_size=1,
        max_overflow=0,
        pool_timeout_seconds=0.2,
    )
    database = pool.database("events")
    async with database.transaction() as session:
        await Reminders(Reminder, session).create(into=ReminderOut, words="holds the only one")
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match="in use"):
            async with database.read() as other:
                await Reminders(Reminder, other).count()
        assert 0.15 < time.monotonic() - started < 1
    async with database.read() as session:
        assert await Reminders(Reminder, session).count() == 1
    await pool.close()
