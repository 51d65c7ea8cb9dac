"""The database of each module, its sessions, and a database that does not answer."""

import asyncio
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Annotated

import httpx2
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import String, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.util import greenlet_spawn

from kernel import Session, get_db
from kernel.application import Application, create_app
from kernel.database import AsyncDBPool, BaseRepository, Database, DatabaseUnavailable, after_commit
from kernel.database.errors import PoolExhausted
from kernel.settings import DatabaseConfig, ModuleSettings
from kernel.testing import query, settings_for

pytestmark = pytest.mark.integration

needs_events = pytest.mark.skipif(
    not (Path(__file__).parents[3] / "modules" / "events").exists(), reason="events was removed"
)
EVENT = {"title": "Concert", "date": "2030-05-01", "time": "20:00", "location": "Berlin"}


def pool_of(url: str, modules: dict[str, ModuleSettings] | None = None, **options: float | str) -> AsyncDBPool:
    return AsyncDBPool(DatabaseConfig(url=url, **options), modules, Path("/project"))


# Where modules live


def test_on_postgresql_modules_share_an_engine_and_have_a_schema_each() -> None:
    pool = pool_of("postgresql://u:p@h/d")
    events, images = pool.database("events"), pool.database("images")
    assert events.writer.pool is images.writer.pool is events.reader.pool
    assert (events.placement.schema, images.placement.schema) == ("events", "images")


def test_on_sqlite_each_module_has_a_file_below_the_projects_folder(tmp_path: Path) -> None:
    pool = AsyncDBPool(DatabaseConfig(url="sqlite:///data"), {}, tmp_path)
    assert pool.database("events").placement.url.database == str(tmp_path / "data" / "events.db")
    assert pool.database("events").placement.schema is None


def test_one_module_can_have_a_database_of_its_own() -> None:
    own = ModuleSettings(database_url="postgresql://u:p@elsewhere/d")
    pool = pool_of("postgresql://u:p@h/d", {"events": own, "images": ModuleSettings()})
    assert pool.database("events").placement.url.host == "elsewhere"
    assert pool.database("events").placement.read_url.host == "elsewhere"
    assert pool.database("images").placement.url.host == "h"
    assert pool.database("events").writer.pool is not pool.database("images").writer.pool


def test_the_pool_has_the_sizes_of_the_settings() -> None:
    engine = pool_of("postgresql://u:p@h/d", pool_size=7, max_overflow=3).database("events").writer
    assert engine.pool.size() == 7  # type: ignore[attr-defined]  # of the queue pool
    assert engine.pool._max_overflow == 3  # type: ignore[attr-defined]  # no public name


@needs_events
async def test_a_module_cannot_name_another_modules_table(application: Application) -> None:
    async with application.kernel.pool.database("events").read() as session:
        with pytest.raises(Exception, match="images") as caught:
            await session.execute(text("SELECT * FROM images"))
    assert isinstance(caught.value, ProgrammingError) or "no such table" in str(caught.value)


@needs_events
async def test_one_variable_moves_a_module_to_another_database(
    root: Path, tmp_path: Path, migrated_sqlite: Path, new_database: Callable[[str], URL]
) -> None:
    variables = {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'data'}",
        "EVENTS_DATABASE_URL": new_database("moved").render_as_string(hide_password=False),
        "IMAGES_STORAGE_URL": str(tmp_path / "images"),
    }
    app = create_app(settings_for(root, variables))
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client,
    ):
        assert (await client.post("/api/v1/events", json=EVENT)).status_code == 201
        assert (await client.get("/api/v1/events")).json()["total"] == 1
        components = {one["component"] for one in (await client.get("/health")).json()["components"]}
    assert {"events.database", "images.database"} <= components
    assert not (tmp_path / "data" / "events.db").exists()


# Sessions


@needs_events
async def test_gets_read_from_the_replica_and_writes_go_to_the_primary(
    root: Path, tmp_path: Path, migrated_postgresql: URL, new_database: Callable[[str], URL]
) -> None:
    replica = new_database("replica").render_as_string(hide_password=False)
    variables = {"ENVIRONMENT": "local", "IMAGES_STORAGE_URL": str(tmp_path / "images")}
    first = create_app(settings_for(root, variables | {"DATABASE_URL": replica}))
    async with first.router.lifespan_context(first):
        pass  # The "replica" has the tables and stays empty, because nothing replicates here.
    primary = migrated_postgresql.render_as_string(hide_password=False)
    app = create_app(settings_for(root, variables | {"DATABASE_URL": primary, "DATABASE_READ_URL": replica}))
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client,
    ):
        created = await client.post("/api/v1/events", json=EVENT)
        assert created.status_code == 201
        assert (await client.get(created.headers["location"])).status_code == 404
        assert (await client.delete(created.headers["location"])).status_code == 204


async def test_a_read_takes_no_transaction_and_a_write_takes_one(migrated_postgresql: URL) -> None:
    pool = pool_of(migrated_postgresql.render_as_string(hide_password=False))
    database = pool.database("events")
    clock = text("SELECT now(), pg_sleep(0.01)")  # The time at which the transaction began.
    async with database.read() as session:
        assert await session.scalar(clock) != await session.scalar(clock)
    async with database.transaction() as session:
        assert await session.scalar(clock) == await session.scalar(clock)
    await pool.close()


async def test_a_session_that_is_not_used_takes_no_connection(migrated_postgresql: URL) -> None:
    pool = pool_of("postgresql://u:p@127.0.0.1:1/nothing-listens-here")
    async with pool.get_session("events"), pool.database("events").read():
        pass
    await pool.close()


async def test_after_commit_actions_run_only_after_a_commit(application: Application) -> None:
    ran: list[str] = []

    async def note() -> None:
        ran.append("ran")

    database = application.kernel.pool.database("events")

    async def fail() -> None:
        async with database.transaction() as session:
            after_commit(session, note)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert ran == []
    async with database.transaction() as session:
        after_commit(session, note)
        assert ran == []
    assert ran == ["ran"]


# The original usage: a FastAPI application of any kind, and get_db overridden in a test


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(100))


class UserRepository(BaseRepository[User, int]):
    async def find_by_email(self, email: str) -> User | None:
        return await self.one(self.select().where(User.email == email))


async def test_get_db_can_be_overridden_for_a_test_that_talks_through_asgi() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    async def in_memory() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engine) as session, session.begin():
            yield session

    app = FastAPI()

    @app.post("/users/{email}")
    async def create(email: str, session: Annotated[AsyncSession, Depends(get_db)]) -> int:
        return (await UserRepository(User, session).create(email=email)).id

    @app.get("/users/{email}")
    async def read(email: str, session: Session) -> bool:
        return await UserRepository(User, session).find_by_email(email) is not None

    app.dependency_overrides[get_db] = in_memory
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
        assert (await client.post("/users/ada")).json() == 1
        assert (await client.get("/users/ada")).json() is True
        assert (await client.get("/users/bob")).json() is False
    await engine.dispose()


# When the database does not answer


async def test_a_database_that_refuses_is_unavailable() -> None:
    pool = pool_of("postgresql://u:p@127.0.0.1:1/d")
    with pytest.raises(DatabaseUnavailable):
        await pool.database("events").check()
    await pool.close()


async def test_a_database_that_does_not_exist_is_unavailable(postgresql: URL) -> None:
    pool = pool_of(postgresql.set(database="ghost").render_as_string(hide_password=False))
    with pytest.raises(DatabaseUnavailable):
        await pool.database("events").check()
    await pool.close()


async def test_a_database_that_accepts_and_does_not_answer_is_unavailable_in_time() -> None:
    listening = socket.create_server(("127.0.0.1", 0))  # the system accepts, nothing answers
    port = listening.getsockname()[1]
    pool = pool_of(f"postgresql://u:p@127.0.0.1:{port}/d", connect_timeout_seconds=0.3)
    started_at = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        await pool.database("events").check()
    assert time.monotonic() - started_at < 2
    await pool.close()
    listening.close()


@pytest.mark.parametrize("kind", ["read", "write"])
async def test_a_statement_that_takes_too_long_is_ended_and_its_connection_not_used_again(
    migrated_postgresql: URL, kind: str
) -> None:
    url = migrated_postgresql.render_as_string(hide_password=False)
    pool = pool_of(url, command_timeout_seconds=0.3, pool_size=1, max_overflow=0)
    backend = text("SELECT pg_backend_pid()")
    database = pool.database("events")
    opened = database.read if kind == "read" else database.transaction
    async with opened() as session:
        before = await session.scalar(backend)
    with pytest.raises(DatabaseUnavailable):
        async with opened() as session:
            await session.execute(text("SELECT pg_sleep(10)"))
    async with opened() as session:
        assert await session.scalar(backend) != before
    await pool.close()


async def test_waiting_too_long_for_a_connection_raises_an_error(migrated_postgresql: URL) -> None:
    url = migrated_postgresql.render_as_string(hide_password=False)
    pool = pool_of(url, pool_size=1, max_overflow=0, pool_timeout_seconds=0.2)
    async with pool.get_session("events") as session:
        await session.execute(text("SELECT 1"))
        with pytest.raises(DatabaseUnavailable, match="in use"):
            async with pool.get_session("images") as other:
                await other.execute(text("SELECT 1"))
    await pool.close()


@asynccontextmanager
async def in_use(database: Database) -> AsyncIterator[None]:
    """Return whether a connection of its pool is in use."""
    async with database.transaction() as session:
        await session.execute(text("SELECT 1"))
        yield


async def sleep(database: Database, seconds: float) -> None:
    async with database.transaction() as session:
        await session.execute(text(f"SELECT pg_sleep({seconds})"))


async def test_a_busy_pool_is_distinguished_from_a_database_that_is_down(empty_url: str) -> None:
    pool = pool_of(empty_url, pool_size=1, max_overflow=0)
    database = pool.database("events")
    async with in_use(database):
        with pytest.raises(PoolExhausted, match="in use"):
            await database.check()
    await database.check()
    await pool.close()


async def test_a_check_that_gets_a_connection_after_waiting_succeeds(empty_url: str) -> None:
    pool = pool_of(empty_url, pool_size=1, max_overflow=0)
    database = pool.database("events")
    async with in_use(database):
        check = asyncio.create_task(database.check())
        await asyncio.sleep(0.1)  # Nothing may happen in this time.
        assert not check.done()
    await check
    async with in_use(database):
        pass  # It has returned its connection.
    await pool.close()


@pytest.fixture
def with_one_connection(new_database: Callable[[str], URL]) -> Iterator[str]:
    """Provide the URL of a role that may have one connection only."""
    url = new_database("roomless")
    role = str(url.database)
    query(url, f'DROP ROLE IF EXISTS "{role}"')
    query(url, f'CREATE ROLE "{role}" LOGIN CONNECTION LIMIT 1')
    yield url.set(username=role).render_as_string(hide_password=False)
    query(url, f'DROP ROLE "{role}"')


async def test_a_refusal_of_one_more_connection_counts_as_an_answer(with_one_connection: str) -> None:
    pool = pool_of(with_one_connection, pool_size=1, max_overflow=0)
    database = pool.database()
    async with in_use(database):
        with pytest.raises(PoolExhausted):
            await database.check()
    await pool.close()


async def test_a_server_without_free_connections_is_unavailable(with_one_connection: str) -> None:
    first, second = pool_of(with_one_connection), pool_of(with_one_connection)
    async with in_use(first.database()):
        for ask in (second.database().check, lambda: second.database().run(select(1))):
            with pytest.raises(DatabaseUnavailable):
                await ask()
    await first.close()
    await second.close()


async def test_a_busy_primary_does_not_hide_a_replica_that_is_down(new_database: Callable[[str], URL]) -> None:
    url = new_database("busy").render_as_string(hide_password=False)
    pool = pool_of(url, pool_size=1, max_overflow=0, read_url="postgresql://u:p@127.0.0.1:1/d")
    database = pool.database("events")
    async with in_use(database):
        with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
            await database.check()
    await pool.close()


async def test_a_connection_that_was_killed_while_idle_is_never_seen(migrated_postgresql: URL) -> None:
    url = migrated_postgresql.render_as_string(hide_password=False)
    pool, killer = pool_of(url, pool_size=3), pool_of(url)
    database = pool.database("events")

    async def ask() -> int:
        async with database.read() as session:
            await session.execute(text("SELECT pg_sleep(0.05)"))
            return int(await session.scalar(text("SELECT pg_backend_pid()")) or 0)

    before = set(await asyncio.gather(*(ask() for _ in range(3))))  # two may have had one connection in turn
    async with killer.get_session() as session:
        for pid in before:
            assert await session.scalar(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
    after = await asyncio.gather(*(ask() for _ in range(3)))
    assert not before & set(after)
    await pool.close()
    await killer.close()


async def test_opening_waits_for_a_sqlite_file_that_another_process_changes(tmp_path: Path) -> None:
    # SQLite itself does not wait for a change of the journal mode, because both may have read the file.
    pool = pool_of(f"sqlite:///{tmp_path}", busy_timeout_seconds=0.5)
    with closing(sqlite3.connect(tmp_path / "probe.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailable):
            await pool.database("probe").check()
        checks = asyncio.gather(*(pool.database("probe").check() for _ in range(8)))
        await asyncio.sleep(0.1)  # Nothing may happen in this time.
        assert not checks.done()
        other.execute("CREATE TABLE things (id INTEGER)")
        other.execute("COMMIT")
        await checks
    with closing(sqlite3.connect(tmp_path / "probe.db")) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    await pool.close()


async def test_two_processes_that_read_and_then_write_one_sqlite_file_lose_no_update(tmp_path: Path) -> None:
    """Two pools are like two processes: they share only the file."""
    pools = [pool_of(f"sqlite:///{tmp_path}") for _ in range(2)]
    async with pools[0].get_session("counts") as session:
        await session.execute(text("CREATE TABLE counter AS SELECT 0 AS value"))

    async def increment(pool: AsyncDBPool) -> None:
        for _ in range(50):
            async with pool.get_session("counts") as session:
                value = await session.scalar(text("SELECT value FROM counter"))
                await asyncio.sleep(0)
                await session.execute(text("UPDATE counter SET value = :value"), {"value": int(value or 0) + 1})

    await asyncio.gather(*(increment(pool) for pool in pools))
    async with pools[0].database("counts").read() as session:
        assert await session.scalar(text("SELECT value FROM counter")) == 100
    for pool in pools:
        await pool.close()


@needs_events
async def test_a_request_to_a_database_that_is_down_is_answered_503(root: Path, tmp_path: Path) -> None:
    variables = {
        "DATABASE_URL": "postgresql://u:p@127.0.0.1:1/d",
        "IMAGES_STORAGE_URL": str(tmp_path / "images"),
    }
    app = create_app(settings_for(root, variables))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
        for answer in (
            await client.get("/api/v1/events"),
            await client.post("/api/v1/events", json=EVENT),
            await client.get("/api/v1/images/1"),
        ):
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["retry-after"] == "1"


async def test_a_locked_sqlite_file_is_unavailable(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}"
    holder, waiter = pool_of(url), pool_of(url, busy_timeout_seconds=0.1)
    async with holder.get_session("things") as session:
        await session.execute(text("CREATE TABLE things AS SELECT 1 AS id"))
    async with holder.get_session("things") as session:
        await session.execute(text("DELETE FROM things"))
        with pytest.raises(DatabaseUnavailable):
            async with waiter.get_session("things") as other:
                await other.execute(text("DELETE FROM things"))
    await holder.close()
    await waiter.close()


async def test_a_sqlite_connection_that_was_stopped_keeps_no_task_waiting(tmp_path: Path) -> None:
    """SQLAlchemy resets the isolation level when a task returns a connection that the end of its session has closed."""
    pool = AsyncDBPool(DatabaseConfig(url=f"sqlite:///{tmp_path}"))
    async with pool.database("things").reader.connect() as connection:
        raw = await connection.get_raw_connection()
        raw.driver_connection.stop()
        async with asyncio.timeout(5):
            await greenlet_spawn(setattr, raw.dbapi_connection, "isolation_level", None)
        await connection.invalidate()
    await pool.close()
