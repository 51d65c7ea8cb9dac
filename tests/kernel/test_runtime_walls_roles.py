"""On PostgreSQL each module's sessions run under a role of its own, which has rights in its own schema only."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.app import create_app
from kernel.database import AsyncDBPool, BaseRepository, Database, DatabaseUnavailable, new_metadata, roles
from kernel.database.errors import RoleError
from kernel.database.roles import Role
from kernel.database.session import LazySession
from kernel.settings import DatabaseConfig
from kernel.testing import query, settings_for

MODULES = ("events", "images")


class Base(DeclarativeBase):
    metadata = new_metadata()


class Thing(Base):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(primary_key=True)
    serial: Mapped[int] = mapped_column(sa.BigInteger, sa.Sequence("serials"), server_default=sa.text("0"))
    name: Mapped[str]


class ThingOut(BaseModel):
    id: int
    name: str


class Elsewhere(Base):
    """What a module would write to reach into another's schema."""

    __tablename__ = "secrets"
    __table_args__ = {"schema": "images"}  # noqa: RUF012  # as SQLAlchemy wants it
    id: Mapped[int] = mapped_column(primary_key=True)


async def opened(url: URL, **options: Any) -> AsyncDBPool:
    """A pool for two modules with a table `things` each, and images.secrets; the roles are there."""
    config = DatabaseConfig(url=str(url), role_per_module=True, **options)
    pool = AsyncDBPool(config, {}, Path("/"), MODULES)
    for name in MODULES:
        query(url, f"CREATE SCHEMA {name}; CREATE SEQUENCE {name}.serials")
        query(url, f"CREATE TABLE {name}.things (id serial PRIMARY KEY, serial bigint DEFAULT 0, name text)")
    await roles.apply([role for name in MODULES if (role := pool.role(name))], config)
    query(url, "CREATE TABLE images.secrets (id int GENERATED ALWAYS AS IDENTITY, words text)")  # after the roles
    return pool


@pytest.fixture
async def pool(new_database: Callable[[str], URL]) -> AsyncIterator[AsyncDBPool]:
    pool = await opened(new_database("roles"), pool_size=1, max_overflow=0, pool_timeout_seconds=5)
    yield pool
    await pool.close()


WHO = sa.select(sa.literal_column("current_user").cast(sa.Text))


async def whom(session: AsyncSession, *, directly: bool) -> str:
    """Under which role the session's statements run."""
    if not directly:
        return str(await session.scalar(WHO))
    assert isinstance(session, LazySession)
    rows = await session.fetch(WHO)
    assert rows, "it went through SQLAlchemy"
    return str(rows[0][0])


def expected(database: Database, name: str) -> str:
    return f"{database.placement.url.database}.{name}"


@pytest.mark.parametrize("directly", [True, False])
async def test_modules_that_take_turns_on_one_connection_each_have_their_role(
    pool: AsyncDBPool, directly: bool
) -> None:
    for _ in range(3):
        for name in MODULES:
            database = pool.database(name)
            async with database.read() as session:
                assert await whom(session, directly=directly) == expected(database, name)
            async with database.transaction() as session:
                assert await whom(session, directly=directly) == expected(database, name)
    async with pool.database().read() as session:
        assert "." not in await whom(session, directly=directly), "the shared database as it is has none"


@pytest.mark.parametrize("directly", [True, False])
async def test_a_module_can_use_its_own_tables_and_sequences(pool: AsyncDBPool, directly: bool) -> None:
    for name in MODULES:
        async with pool.database(name).transaction() as session:
            things = BaseRepository[Thing, int](Thing, session)
            if not directly:
                await session.connection()
            created = await things.create(into=ThingOut, name="one")
            assert await things.update(created.id, into=ThingOut, name="two")
            assert await things.get_by_id(created.id, into=ThingOut) == ThingOut(id=created.id, name="two")
            assert await things.delete(created.id)
    # A table that was made after the roles, with an identity.
    async with pool.database("images").transaction() as session:
        await session.execute(sa.text("INSERT INTO images.secrets (words) VALUES ('hush')"))


@pytest.mark.parametrize(
    "statement",
    [
        sa.select(Elsewhere.id),
        sa.insert(Elsewhere).values(id=1),
        sa.update(Elsewhere).values(id=1),
        sa.delete(Elsewhere),
    ],
)
@pytest.mark.parametrize("directly", [True, False])
async def test_a_module_can_neither_read_nor_write_anothers(pool: AsyncDBPool, statement: Any, directly: bool) -> None:
    async def reach() -> None:
        async with pool.database("events").transaction() as session:
            assert isinstance(session, LazySession)
            await (session.fetch(statement) if directly else session.execute(statement))

    with pytest.raises(DBAPIError, match="permission denied for schema images"):
        await reach()
    async with pool.database("images").read() as session:
        await session.execute(sa.select(Elsewhere.id))


async def test_a_module_may_read_which_migrations_are_applied_and_not_change_it(
    new_database: Callable[[str], URL],
) -> None:
    url = new_database("versions")
    query(url, "CREATE SCHEMA events; CREATE TABLE events.alembic_version (version_num text)")
    config = DatabaseConfig(url=str(url), role_per_module=True)
    pool = AsyncDBPool(config, {}, Path("/"), ["events"])
    await roles.apply([role for role in [pool.role("events")] if role], config)
    async with pool.database("events").read() as session:
        await session.execute(sa.text("SELECT * FROM events.alembic_version"))
        with pytest.raises(DBAPIError, match="permission denied"):
            await session.execute(sa.text("DELETE FROM events.alembic_version"))
    await pool.close()


@pytest.mark.parametrize("directly", [True, False])
async def test_what_is_rolled_back_or_lost_leaves_no_wrong_role(pool: AsyncDBPool, directly: bool) -> None:
    events, images = (pool.database(name) for name in MODULES)

    async def fails() -> None:
        async with events.transaction() as session:
            await whom(session, directly=directly)
            raise ZeroDivisionError

    async def both() -> None:
        for database, name in ((images, "images"), (events, "events")):
            async with database.read() as session:
                assert await whom(session, directly=directly) == expected(database, name)

    with pytest.raises(ZeroDivisionError):
        await fails()
    await both()
    end_all = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    for give_notice in (True, False):
        query(events.placement.url, end_all)
        if give_notice:
            await asyncio.sleep(0.05)  # the driver has learned of it
        await both()
        await both()
    assert events.writer.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # of queue pools


async def test_a_transaction_that_the_orm_takes_over_keeps_its_connection_and_its_role(pool: AsyncDBPool) -> None:
    events = pool.database("events")
    async with events.transaction() as session:
        created = await BaseRepository[Thing, int](Thing, session).create(into=ThingOut, name="kept")
        # Somebody else has met a dead connection: all others of its age are to be replaced, once they are given back.
        engine_pool: Any = events.writer.sync_engine.pool
        engine_pool._invalidate_time = time.time()
        assert await whom(session, directly=False) == expected(events, "events")
    async with events.read() as session:
        assert await BaseRepository[Thing, int](Thing, session).get_by_id(created.id, into=ThingOut)
        assert await whom(session, directly=True) == expected(events, "events")


async def test_an_idle_connection_that_has_the_role_is_preferred(new_database: Callable[[str], URL]) -> None:
    pool = await opened(new_database("preferred"), pool_size=3, max_overflow=0)

    async def backend(name: str | None) -> Any:
        async with pool.database(name).read() as session:
            assert isinstance(session, LazySession)
            rows = await session.fetch(sa.select(sa.func.pg_backend_pid()))
            assert rows
            return rows[0][0]

    first = {name: await backend(name) for name in (*MODULES, None)}
    assert len(set(first.values())) == 3, "the pool grows to its size before anybody changes a role"
    for name in ("events", None, "images", "images", None, "events"):
        assert await backend(name) == first[name]
    await pool.close()


async def test_a_role_that_is_missing_is_named_with_what_to_do(new_database: Callable[[str], URL]) -> None:
    url = new_database("missing")
    query(url, "CREATE SCHEMA events")
    config = DatabaseConfig(url=str(url), role_per_module=True, role_prefix=f"{url.database}.none.")
    pool = AsyncDBPool(config, {}, Path("/"), ["events"])
    with pytest.raises(RoleError, match=r"kernel roles --apply"):
        await roles.verify([role for role in [pool.role("events")] if role], config)
    for directly in (True, False):
        with pytest.raises(RoleError, match=r"none\.events.*kernel roles --apply"):
            async with pool.database("events").read() as session:
                await whom(session, directly=directly)
    assert pool.database("events").writer.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    await pool.close()


async def test_a_start_without_the_roles_fails_and_says_so_and_local_makes_them(
    root: Path, new_database: Callable[[str], URL], tmp_path: Path
) -> None:
    variables = {
        "DATABASE_URL": str(new_database("start")),
        "DATABASE_ROLE_PER_MODULE": "true",
        "IMAGES_STORAGE_URL": f"file://{tmp_path}",
    }
    app = create_app(settings_for(root, variables))
    async with app.router.lifespan_context(app):
        pass
    forgotten = {"ENVIRONMENT": "dev", "AUTH_ENABLED": "false", "DATABASE_ROLE_PREFIX": "never-made."}
    app = create_app(settings_for(root, variables | forgotten))
    with pytest.raises(RoleError, match=r"never-made\.health.*run `kernel roles --apply`"):
        async with app.router.lifespan_context(app):
            pass
    app = create_app(settings_for(root, variables | {"ENVIRONMENT": "dev", "AUTH_ENABLED": "false"}))
    async with app.router.lifespan_context(app):
        pass


async def test_roles_may_be_applied_from_many_processes_at_once(new_database: Callable[[str], URL]) -> None:
    url = new_database("at_once")
    query(url, "CREATE SCHEMA events")
    config = DatabaseConfig(url=str(url))
    role = Role(f"{url.database}.at once\"'", "events", url, "events")
    await asyncio.gather(*(roles.apply([role], config) for _ in range(8)))
    await roles.verify([role], config)
    query(url, 'DROP OWNED BY "{0}"; DROP ROLE "{0}"'.format(role.name.replace('"', '""')))


async def test_a_schema_that_is_not_there_yet_is_a_migration_that_was_forgotten(
    new_database: Callable[[str], URL],
) -> None:
    url = new_database("early")
    with pytest.raises(RoleError, match="run `kernel migrate`, then `kernel roles --apply`"):
        await roles.apply([Role(f"{url.database}.events", "events", url, "events")], DatabaseConfig(url=str(url)))


async def test_an_ordinary_user_who_may_create_roles_can_apply_and_take_them(
    new_database: Callable[[str], URL],
) -> None:
    url = new_database("ordinary")
    admin, app = f"{url.database}_admin", f"{url.database}_app"
    query(url, f"CREATE ROLE {admin} LOGIN CREATEROLE; CREATE ROLE {app} LOGIN")
    query(url, f"CREATE SCHEMA events AUTHORIZATION {admin}; CREATE SCHEMA images AUTHORIZATION {admin}")
    try:
        config = DatabaseConfig(url=str(url.set(username=admin)), role_per_module=True)
        made = [Role(f"{url.database}.{name}", name, config.get_url(), name) for name in MODULES]
        for _ in range(2):
            await roles.apply(made, config, [app])
        for login in (admin, app):
            config = DatabaseConfig(url=str(url.set(username=login)), role_per_module=True)
            pool = AsyncDBPool(config, {}, Path("/"), MODULES)
            await roles.verify([role for name in MODULES if (role := pool.role(name))], config)
            async with pool.database("events").read() as session:
                assert await whom(session, directly=True) == f"{url.database}.events"
            await pool.close()
    finally:
        for name in MODULES:
            query(url, f'DROP OWNED BY "{url.database}.{name}"; DROP ROLE "{url.database}.{name}"')
        query(url, f"DROP OWNED BY {admin}; DROP ROLE {admin}; DROP ROLE {app}")


def test_the_command_prints_the_roles_and_applies_them(
    root: Path, new_database: Callable[[str], URL], tmp_path: Path
) -> None:
    url = new_database("command")

    def kernel(*arguments: str, **variables: str) -> tuple[int, str]:
        env = {"PATH": os.environ["PATH"], "DATABASE_URL": str(url), "IMAGES_STORAGE_URL": str(tmp_path), **variables}
        command = [Path(sys.executable).parent / "kernel", *arguments]
        done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout + done.stderr

    code, printed = kernel("roles")
    assert (code, f'GRANT USAGE ON SCHEMA "health" TO "{url.database}.health";' in printed) == (0, True)
    code, said = kernel("roles", "--apply")
    assert (code, "run `kernel migrate`, then `kernel roles --apply`" in said) == (1, True)
    assert kernel("migrate")[0] == 0
    for _ in range(2):
        code, said = kernel("roles", "--apply")
        assert (code, f"{url.database}.health" in said) == (0, True)
    code, said = kernel("roles", DATABASE_URL=f"sqlite:///{tmp_path}")
    assert (code, "nothing to do" in said) == (0, True)


def test_a_name_that_postgresql_would_cut_is_refused() -> None:
    config = DatabaseConfig(url="postgresql://u:p@h/shop", role_per_module=True, role_prefix="x" * 60)
    with pytest.raises(RoleError, match="DATABASE_ROLE_PREFIX"):
        AsyncDBPool(config, {}, Path("/"), ["events"]).database("events")


async def test_a_pool_that_is_refused_while_it_connects_keeps_no_turn() -> None:
    config = DatabaseConfig(url="postgresql://u:p@127.0.0.1:1/none", role_per_module=True, pool_size=1, max_overflow=1)
    pool = AsyncDBPool(config, {}, Path("/"), MODULES)
    for directly in (True, False) * 4:
        with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
            async with pool.database("events").read() as session:
                await whom(session, directly=directly)
    await pool.close()
