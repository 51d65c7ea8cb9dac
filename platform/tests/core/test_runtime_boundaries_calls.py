"""A contract call counts as a remote call: it is refused after a write, and holds no connection."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from pydantic import BaseModel
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel import Contract, safe
from kernel.database import AsyncDBPool, BaseRepository, Database, Versioned, after_commit, new_metadata
from kernel.database.session import DatabaseSession, open_sessions
from kernel.database.writes import what_it_writes
from kernel.modules.contracts import CallInTransaction, CallRule, local_client
from kernel.settings import ApplicationSettings, DatabaseConfig, Environment
from kernel.testing import query


class Base(DeclarativeBase):
    metadata = new_metadata()


class Event(Versioned, Base):
    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


class EventOut(BaseModel):
    id: int
    title: str
    version: int


class EventRepository(BaseRepository[Event, int]):
    def __init__(self, session: AsyncSession) -> None:
        super().__init__(Event, session)


class Images(Contract):
    """The contract of the other module."""

    @safe
    async def get(self, image_id: int) -> int | None:
        """Return the number of rows with this id, or None."""

    async def hang(self, *, first: bool) -> None:
        """Call before (first) or after a write."""


class Answers(Images):
    def __init__(self, session: AsyncSession) -> None:
        self._images = EventRepository(session)

    async def get(self, image_id: int) -> int | None:
        return await self._images.count(Event.id == image_id) or None

    async def hang(self, *, first: bool) -> None:
        if first:
            await self.others.get(1)
        await self._images.create(into=EventOut, title="hung")
        if not first:
            await self.others.get(1)

    others: Images


VALUES: dict[str, Any] = {"title": "Concert"}


@pytest.fixture(params=["sqlite", "postgresql"])
async def pool(
    request: pytest.FixtureRequest, tmp_path: Path, extend: Callable[[AsyncDBPool], AsyncDBPool]
) -> AsyncIterator[AsyncDBPool]:
    """Provide two modules with a table each, under roles of their own if there are roles."""
    url = f"sqlite:///{tmp_path}"
    if request.param == "postgresql":
        make: Callable[[str], URL] = request.getfixturevalue("new_database")
        server = make("calls")
        url = str(server)
        query(server, "CREATE SCHEMA events; CREATE SCHEMA images")
    pool = AsyncDBPool(DatabaseConfig(url=url, pool_size=2, max_overflow=1), {}, Path("/"), ["events", "images"])
    extend(pool)
    for name in ("events", "images"):
        async with pool.database(name).writer.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
    yield pool
    await pool.close()


@pytest.fixture
def events(pool: AsyncDBPool) -> Database:
    return pool.database("events")


@pytest.fixture
def images(pool: AsyncDBPool) -> Images:
    return port(pool, is_strict=True)


def port(pool: AsyncDBPool, *, is_strict: bool) -> Images:
    made = local_client(Images, pool.database("images"), Answers, CallRule(is_strict=is_strict))
    assert isinstance(made, Images)
    Answers.others = made
    return made


def in_use(database: Database) -> int:
    pools = {database.writer.sync_engine.pool, database.reader.sync_engine.pool}
    return sum(pool.checkedout() for pool in pools)  # type: ignore[attr-defined]  # of queue pools


async def _insert_directly(session: AsyncSession) -> None:
    await EventRepository(session).create(into=EventOut, **VALUES)


async def _insert_by_the_orm(session: AsyncSession) -> None:
    await EventRepository(session).create(**VALUES)


async def _leave_unflushed(session: AsyncSession) -> None:
    session.add(Event(**VALUES))


async def _lock(session: AsyncSession) -> None:
    await session.execute(sa.select(Event.id).with_for_update())


async def _lock_directly(session: AsyncSession) -> None:
    assert isinstance(session, DatabaseSession)
    await session.rows(sa.select(Event.id).with_for_update())


async def _write_by_text(session: AsyncSession) -> None:
    schema = "events." if session.get_bind().dialect.name == "postgresql" else ""
    await session.execute(sa.text(f"UPDATE {schema}events SET title = 'x'"))


async def _write_then_read(session: AsyncSession) -> None:
    await _insert_directly(session)
    await session.scalar(sa.select(sa.func.count(Event.id)))


async def _write_in_a_savepoint(session: AsyncSession) -> None:
    async with session.begin_nested():
        await _write_by_text(session)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (_insert_directly, "INSERT INTO"),
        (_insert_by_the_orm, "INSERT INTO"),
        (_leave_unflushed, "unflushed Event"),
        (_write_by_text, "UPDATE"),
        (_write_then_read, "INSERT INTO"),
        (_write_in_a_savepoint, "UPDATE"),
    ],
)
async def test_a_call_after_a_write_names_the_call_the_line_and_the_write(
    events: Database, images: Images, write: Any, said: str
) -> None:
    async def asks_too_late() -> None:
        async with events.transaction() as session:
            await write(session)
            await images.get(1)

    with pytest.raises(
        CallInTransaction, match=rf"Images\.get is called at .*test_runtime_boundaries_calls\.py:\d+.*{said}"
    ):
        await asks_too_late()
    async with events.read() as session:
        assert await EventRepository(session).count() == 0, "the transaction was rolled back"
    assert in_use(events) == 0


@pytest.mark.parametrize("pool", ["postgresql"], indirect=True)  # SQLite has no such lock.
@pytest.mark.parametrize("lock", [_lock, _lock_directly])
async def test_a_locking_read_counts_as_written(events: Database, images: Images, lock: Any) -> None:
    async def asks_too_late() -> None:
        async with events.transaction() as session:
            await lock(session)
            await images.get(1)

    with pytest.raises(CallInTransaction, match="FOR UPDATE"):
        await asks_too_late()


async def _read_directly(session: AsyncSession) -> None:
    await EventRepository(session).get_by_id(1, into=EventOut)


async def _read_by_the_orm(session: AsyncSession) -> None:
    await EventRepository(session).get_by_id(1)


async def _read_both_ways(session: AsyncSession) -> None:
    await _read_directly(session)
    await _read_by_the_orm(session)


async def _read_nothing(session: AsyncSession) -> None:
    pass


@pytest.mark.parametrize("read", [_read_directly, _read_by_the_orm, _read_both_ways, _read_nothing])
@pytest.mark.parametrize("writes", [True, False])
async def test_a_session_that_has_only_read_releases_its_connection_and_continues(
    events: Database, images: Images, read: Any, writes: bool
) -> None:
    async with events.transaction() if writes else events.read() as session:
        await read(session)
        assert await images.get(1) is None
        assert in_use(events) == 0
        await read(session)
        assert await images.get(1) is None
        assert in_use(events) == 0
        if writes:
            await EventRepository(session).create(into=EventOut, **VALUES)
    async with events.read() as session:
        assert await EventRepository(session).count() == writes
    assert in_use(events) == 0


async def test_an_entity_loaded_before_the_call_can_be_changed_after_it(events: Database, images: Images) -> None:
    async with events.transaction() as session:
        made = await EventRepository(session).create(into=EventOut, **VALUES)
    async with events.transaction() as session:
        event = await EventRepository(session).get_by_id(made.id)
        assert event is not None
        assert await images.get(1) is None
        event.title = "Gig"
    async with events.read() as session:
        changed = await EventRepository(session).get_by_id(made.id)
        assert changed is not None
        assert (changed.title, changed.version) == ("Gig", made.version + 1)


async def test_calls_are_allowed_after_the_transaction_and_after_commit(events: Database, images: Images) -> None:
    async def ask() -> None:
        assert await images.get(1) is None

    async with events.transaction() as session:
        after_commit(session, ask)
        await _insert_directly(session)
    await ask()
    assert not list(open_sessions())


async def test_an_ended_session_is_not_referenced(events: Database) -> None:
    async with events.read() as session:
        kept = weakref.ref(session)
    del session
    gc.collect()
    assert kept() is None


async def test_an_inner_session_does_not_hide_writes_of_the_outer_one(events: Database, images: Images) -> None:
    async def asks_too_late() -> None:
        async with events.transaction() as outer:
            if events.writer.dialect.name == "sqlite":
                await _leave_unflushed(outer)
            else:
                await _insert_directly(outer)
            async with events.read():
                await images.get(1)

    with pytest.raises(CallInTransaction):
        await asks_too_late()


async def test_a_task_inherits_the_sessions_of_its_starter_and_does_not_end_them(
    events: Database, images: Images
) -> None:
    async def ask() -> None:
        async with events.read():
            await images.get(1)

    async with events.transaction() as session:
        await asyncio.gather(*(ask() for _ in range(5)), images.get(1))
        assert [*open_sessions()] == [session]
        await _insert_directly(session)
        with pytest.raises(CallInTransaction):
            await asyncio.gather(ask(), images.get(1))
        asked = asyncio.Event()

        async def later() -> None:
            await asked.wait()
            await images.get(1)

        task = asyncio.create_task(later())
    asked.set()
    await task  # The transaction is over by now.
    assert not list(open_sessions())


async def test_a_contract_call_is_a_unit_of_work_of_its_own(events: Database, images: Images) -> None:
    async with events.transaction() as session:
        assert await images.get(1) is None
        await images.hang(first=True)
        assert [*open_sessions()] == [session]
        with pytest.raises(CallInTransaction, match="INSERT"):
            await images.hang(first=False)
        assert await images.get(1) == 1
        await _insert_directly(session)


async def test_without_the_strict_setting_it_warns_once_for_each_place(pool: AsyncDBPool, events: Database) -> None:
    images = port(pool, is_strict=False)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            async with events.transaction() as session:
                await _insert_directly(session)
                assert await images.get(1) is None
    [warning] = [log for log in logs if log["log_level"] == "warning"]
    assert (warning["call"], "test_runtime_boundaries_calls.py:" in warning["place"]) == ("Images.get", True)
    async with events.read() as session:
        assert await EventRepository(session).count() == 3


def test_local_raises_and_other_environments_warn() -> None:
    strict = [ApplicationSettings(environment=one).strict_contract_calls for one in Environment]
    assert strict == [True, False, False, False]


@pytest.mark.parametrize(
    ("statement", "writes"),
    [
        ("SELECT 1", None),
        ("  select a.update_count, \"update\" FROM a WHERE b = 'INSERT INTO c'", None),
        ("WITH a AS (SELECT 1) SELECT * FROM a -- DELETE FROM b", None),
        ("SELECT 1 FROM a FOR NO KEY UPDATE", "FOR NO KEY UPDATE"),
        ("SELECT 1 FROM a FOR KEY SHARE SKIP LOCKED", "FOR KEY SHARE"),
        ("WITH a AS (INSERT INTO b VALUES (1) RETURNING 1) SELECT * FROM a", "INSERT INTO"),
        ("SELECT pg_advisory_xact_lock(1)", "pg_advisory_xact_lock"),
        ("SELECT * INTO b FROM a", "INTO"),
        ("DELETE FROM a WHERE b = 1", "DELETE FROM a"),
        ("CREATE TABLE a (b int)", "CREATE TABLE a"),
        ("NOTIFY a", "NOTIFY a"),
        ("PRAGMA foreign_keys", None),
    ],
)
def test_the_text_of_a_statement_shows_whether_it_writes(statement: str, writes: str | None) -> None:
    assert what_it_writes(statement) == writes
