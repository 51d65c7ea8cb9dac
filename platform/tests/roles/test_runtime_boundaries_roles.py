"""On PostgreSQL the sessions of each module run under a role of its own, with rights in its own schema only."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.application import create_app
from kernel.database import AsyncDBPool, BaseRepository, Database, DatabaseUnavailable, new_metadata
from kernel.database.server_session import quoted
from kernel.database.session import DatabaseSession
from kernel.ext.pool.errors import RoleError
from kernel.ext.roles import roles
from kernel.ext.roles.roles import PostgresqlRoles, Role
from kernel.settings import DatabaseConfig
from kernel.testing import query, settings_for
from tests.boundaries.hostile.unreadable import UNREADABLE
from tests.core.waiting import end_connections, until_driver_knows

Extend = Callable[..., AsyncDBPool]

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
    """The names that a module would write to use another module's schema."""

    __tablename__ = "secrets"
    __table_args__ = {"schema": "images"}  # noqa: RUF012  # as SQLAlchemy wants it
    id: Mapped[int] = mapped_column(primary_key=True)


def roles_of(pool: AsyncDBPool, *modules: str, prefix: str | None = None) -> list[Role]:
    return [role for module in modules if (role := PostgresqlRoles(pool, prefix).role(module))]


async def opened(url: URL, extend: Extend, **options: Any) -> AsyncDBPool:
    """Provide a pool for two modules with a table `things` each, and images.secrets; the roles exist."""
    config = DatabaseConfig(url=str(url), **options)
    pool = extend(AsyncDBPool(config, {}, Path("/"), MODULES))
    for name in MODULES:
        query(url, f"CREATE SCHEMA {name}; CREATE SEQUENCE {name}.serials")
        query(url, f"CREATE TABLE {name}.things (id serial PRIMARY KEY, serial bigint DEFAULT 0, name text)")
    await roles.apply_roles(roles_of(pool, *MODULES), config)
    # As a later migration would, which the module's owner role runs.
    owner = f'SET ROLE "{url.database}.images_owner"'
    query(url, f"{owner}; CREATE TABLE images.secrets (id int GENERATED ALWAYS AS IDENTITY, words text)")
    return pool


@pytest.fixture
async def pool(new_database: Callable[[str], URL], extend: Extend) -> AsyncIterator[AsyncDBPool]:
    pool = await opened(new_database("roles"), extend, pool_size=1, max_overflow=0, pool_timeout_seconds=5)
    yield pool
    await pool.close()


def forget_roles(url: URL, *names: str) -> None:
    """Drop roles, which belong to the whole server, with what they own in this database."""
    for name in (quoted(one) for one in names):
        query(url, f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


WHO = sa.select(sa.literal_column("current_user").cast(sa.Text))


async def whom(session: AsyncSession, *, directly: bool) -> str:
    """Return the role under which the session's statements run."""
    if not directly:
        return str(await session.scalar(WHO))
    assert isinstance(session, DatabaseSession)
    rows = await session.rows(WHO)
    assert rows, "the statement went through SQLAlchemy"
    return str(rows[0][0])


def expected(database: Database, name: str) -> str:
    return f"{database.placement.url.database}.{name}"


@pytest.mark.parametrize("directly", [True, False])
async def test_modules_in_turn_on_one_connection_each_have_their_role(pool: AsyncDBPool, directly: bool) -> None:
    for _ in range(3):
        for name in MODULES:
            database = pool.database(name)
            async with database.read() as session:
                assert await whom(session, directly=directly) == expected(database, name)
            async with database.transaction() as session:
                assert await whom(session, directly=directly) == expected(database, name)
    async with pool.database().read() as session:
        assert "." not in await whom(session, directly=directly), "the shared database itself has no role"


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
    # A table that was created after the roles, with an identity.
    async with pool.database("images").transaction() as session:
        await session.execute(sa.text("INSERT INTO images.secrets (words) VALUES ('hush')"))


@pytest.mark.parametrize("case", UNREADABLE)
async def test_sql_that_no_check_can_read_is_refused_by_the_role(pool: AsyncDBPool, case: str) -> None:
    sql = eval(UNREADABLE[case]).replace("right.rights", "images.secrets")  # noqa: S307  # a text of this repository
    assert sql == "SELECT 1 FROM images.secrets"
    async with pool.database("images").read() as session:
        await session.execute(sa.text(sql))
    with pytest.raises(DBAPIError, match=r"permission denied for (schema images|table secrets)"):
        async with pool.database("events").read() as session:
            await session.execute(sa.text(sql))


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
async def test_a_module_can_neither_read_nor_write_tables_of_another(
    pool: AsyncDBPool, statement: Any, directly: bool
) -> None:
    async def reach() -> None:
        async with pool.database("events").transaction() as session:
            assert isinstance(session, DatabaseSession)
            await (session.rows(statement) if directly else session.execute(statement))

    with pytest.raises(DBAPIError, match="permission denied for schema images"):
        await reach()
    async with pool.database("images").read() as session:
        await session.execute(sa.select(Elsewhere.id))


async def test_a_module_may_read_but_not_change_its_list_of_applied_migrations(
    new_database: Callable[[str], URL], extend: Extend
) -> None:
    url = new_database("versions")
    query(url, "CREATE SCHEMA events; CREATE TABLE events.alembic_version (version_num text)")
    config = DatabaseConfig(url=str(url))
    pool = extend(AsyncDBPool(config, {}, Path("/"), ["events"]))
    await roles.apply_roles(roles_of(pool, "events"), config)
    async with pool.database("events").read() as session:
        await session.execute(sa.text("SELECT * FROM events.alembic_version"))
        with pytest.raises(DBAPIError, match="permission denied"):
            await session.execute(sa.text("DELETE FROM events.alembic_version"))
    await pool.close()


@pytest.mark.parametrize("directly", [True, False])
async def test_a_rollback_or_a_lost_connection_leaves_no_wrong_role(pool: AsyncDBPool, directly: bool) -> None:
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
    for driver_knows in (True, False):
        assert end_connections(events.placement.url) == 1
        if driver_knows:
            await until_driver_knows(events.writer.sync_engine.pool)
        await both()
        await both()
    assert events.writer.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # of queue pools


async def test_a_transaction_that_the_orm_takes_over_keeps_its_connection_and_its_role(pool: AsyncDBPool) -> None:
    events = pool.database("events")
    async with events.transaction() as session:
        created = await BaseRepository[Thing, int](Thing, session).create(into=ThingOut, name="kept")
        # Another caller has found a dead connection: all others of its age are replaced when they are returned.
        engine_pool: Any = events.writer.sync_engine.pool
        engine_pool._invalidate_time = time.time()
        assert await whom(session, directly=False) == expected(events, "events")
    async with events.read() as session:
        assert await BaseRepository[Thing, int](Thing, session).get_by_id(created.id, into=ThingOut)
        assert await whom(session, directly=True) == expected(events, "events")


async def test_an_idle_connection_that_has_the_role_is_preferred(
    new_database: Callable[[str], URL], extend: Extend
) -> None:
    pool = await opened(new_database("preferred"), extend, pool_size=3, max_overflow=0)

    async def backend(name: str | None) -> Any:
        async with pool.database(name).read() as session:
            assert isinstance(session, DatabaseSession)
            rows = await session.rows(sa.select(sa.func.pg_backend_pid()))
            assert rows
            return rows[0][0]

    first = {name: await backend(name) for name in (*MODULES, None)}
    assert len(set(first.values())) == 3, "the pool grows to its size before it changes a role"
    for name in ("events", None, "images", "images", None, "events"):
        assert await backend(name) == first[name]
    await pool.close()


async def test_a_missing_role_is_named_with_the_remedy(new_database: Callable[[str], URL], extend: Extend) -> None:
    url = new_database("missing")
    query(url, "CREATE SCHEMA events")
    config = DatabaseConfig(url=str(url))
    prefix = f"{url.database}.none."
    pool = extend(AsyncDBPool(config, {}, Path("/"), ["events"]), role_prefix=prefix)
    with pytest.raises(RoleError, match=r"kernel roles --apply"):
        await roles.verify_roles(roles_of(pool, "events", prefix=prefix), config)
    for directly in (True, False):
        with pytest.raises(RoleError, match=r"none\.events.*kernel roles --apply"):
            async with pool.database("events").read() as session:
                await whom(session, directly=directly)
    assert pool.database("events").writer.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    await pool.close()


async def test_a_start_without_the_roles_fails_and_local_creates_them(
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
    role = Role(f"{url.database}.at once\"'", "events", url, "events", url)
    await asyncio.gather(*(roles.apply_roles([role], config) for _ in range(8)))
    await roles.verify_roles([role], config)
    forget_roles(url, *role.names)


async def test_a_missing_schema_is_created_and_belongs_to_the_modules_owner(
    new_database: Callable[[str], URL],
) -> None:
    url = new_database("early")
    role = Role(f"{url.database}.events", "events", url, "events", url)
    await roles.apply_roles([role], DatabaseConfig(url=str(url)))
    owner = "SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'events'"
    assert query(url, owner) == role.owner
    forget_roles(url, *role.names)


@pytest.fixture
def logins(new_database: Callable[[str], URL]) -> Iterator[tuple[URL, URL]]:
    """Return the URLs of a database for its migrating login and its serving login; both are ordinary users."""
    url = new_database("ordinary")
    migrating, serving = f"{url.database}_migrating", f"{url.database}_serving"
    query(url, f"CREATE ROLE {migrating} LOGIN CREATEROLE; CREATE ROLE {serving} LOGIN")
    query(url, f"ALTER DATABASE {url.database} OWNER TO {migrating}")
    yield url.set(username=migrating), url.set(username=serving)
    query(url, f"ALTER DATABASE {url.database} OWNER TO CURRENT_USER")
    made = query(url, "SELECT rolname FROM pg_roles WHERE rolname LIKE current_database() || '.%'").split()
    forget_roles(url, *made, migrating, serving)


def roles_at(url: URL) -> list[Role]:
    """Return the roles of both modules."""
    return [Role(f"{url.database}.{name}", name, url, name, url) for name in MODULES]


async def test_an_ordinary_user_with_createrole_can_apply_and_take_the_roles(
    logins: tuple[URL, URL], extend: Extend
) -> None:
    migrating, serving = logins
    for _ in range(2):
        await roles.apply_roles(roles_at(migrating), DatabaseConfig(url=str(migrating)), [str(serving.username)])
    for url in (migrating, serving):
        config = DatabaseConfig(url=str(url))
        pool = extend(AsyncDBPool(config, {}, Path("/"), MODULES))
        await roles.verify_roles(roles_of(pool, *MODULES), config)
        async with pool.database("events").read() as session:
            assert await whom(session, directly=True) == f"{url.database}.events"
        await pool.close()


async def test_the_login_that_serves_can_change_rows_but_no_table_with_every_role(
    logins: tuple[URL, URL],
) -> None:
    migrating, serving = logins
    await roles.apply_roles(roles_at(migrating), DatabaseConfig(url=str(migrating)), [str(serving.username)])
    role, owner = f'"{migrating.database}.events"', f'"{migrating.database}.events_owner"'
    query(migrating, f"SET ROLE {owner}; CREATE TABLE events.things (id int)")
    query(serving, f"SET ROLE {role}; INSERT INTO events.things VALUES (1)")
    for hostile in (
        f"SET ROLE {role}; RESET ROLE; DROP TABLE events.things",
        f"SET ROLE {role}; RESET ROLE; SELECT * FROM events.things",  # By itself it has no rights of a module.
        f"SET ROLE {role}; TRUNCATE events.things",
        f"SET ROLE {role}; CREATE TABLE events.others (id int)",
        f"SET ROLE {owner}",
    ):
        with pytest.raises(subprocess.CalledProcessError, match="returned non-zero"):
            query(serving, hostile)
    assert query(serving, f"SET ROLE {role}; SELECT count(*) FROM events.things") == "1"


async def test_tables_that_were_there_before_the_roles_pass_to_the_owner(logins: tuple[URL, URL]) -> None:
    migrating, serving = logins
    query(
        migrating,
        "CREATE SCHEMA events; CREATE TYPE events.colour AS ENUM ('red'); CREATE DOMAIN events.word AS text; "
        "CREATE TABLE events.things (id int GENERATED ALWAYS AS IDENTITY, serial serial, colour events.colour); "
        "CREATE VIEW events.seen AS SELECT 1; CREATE SEQUENCE events.numbers; CREATE TYPE events.pair AS (a int); "
        "CREATE FUNCTION events.one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    )
    await roles.apply_roles(roles_at(migrating), DatabaseConfig(url=str(migrating)), [str(serving.username)])
    objects = (
        "SELECT DISTINCT pg_get_userbyid(o) FROM (SELECT relowner o, relnamespace n FROM pg_class UNION ALL "
        "SELECT typowner, typnamespace FROM pg_type UNION ALL SELECT proowner, pronamespace FROM pg_proc) x "
        "WHERE n = 'events'::regnamespace"
    )
    assert query(migrating, objects) == f"{migrating.database}.events_owner"
    query(serving, f"SET ROLE \"{migrating.database}.events\"; INSERT INTO events.things (colour) VALUES ('red')")


async def test_applying_without_rights_reports_the_reason_and_changes_nothing(logins: tuple[URL, URL]) -> None:
    migrating, serving = logins
    query(migrating.set(username="postgres"), "CREATE SCHEMA events; CREATE TABLE events.things (id int)")
    with pytest.raises(RoleError, match=r"events cannot be applied: permission denied for schema events\..*CREATEROLE"):
        await roles.apply_roles(roles_at(migrating), DatabaseConfig(url=str(migrating)), [str(serving.username)])
    with pytest.raises(RoleError, match="permission denied to create role"):
        await roles.apply_roles(roles_at(serving), DatabaseConfig(url=str(serving)))
    assert query(migrating, "SELECT count(*) FROM pg_roles WHERE rolname LIKE current_database() || '.%'") == "0"
    await roles.apply_roles(roles_at(migrating.set(username="postgres")), DatabaseConfig(url=str(migrating)))


async def test_applying_fails_where_the_login_that_serves_would_keep_more_rights(logins: tuple[URL, URL]) -> None:
    migrating, serving = logins
    config, login = DatabaseConfig(url=str(migrating)), str(serving.username)
    with pytest.raises(RoleError, match="postgres is a superuser"):
        await roles.apply_roles(roles_at(migrating), config, ["postgres"])
    await roles.apply_roles(roles_at(migrating), config, [login])
    query(migrating, f'GRANT "{migrating.database}.events_owner" TO {login}')
    with pytest.raises(RoleError, match=r"may take the role .*events_owner"):
        await roles.apply_roles(roles_at(migrating), config, [login])


@pytest.mark.parametrize("environment", ["dev", "prod"])
async def test_a_login_that_may_change_tables_does_not_serve_in_prod(logins: tuple[URL, URL], environment: str) -> None:
    migrating, serving = (url.set(password="of-the-test") for url in logins)
    await roles.apply_roles(roles_at(migrating), DatabaseConfig(url=str(migrating)), [str(serving.username)])
    for url, is_refused in ((serving, False), (migrating, environment == "prod")):
        config = DatabaseConfig(url=url.render_as_string(hide_password=False), environment=environment)
        with pytest.raises(RoleError, match="DROP TABLE") if is_refused else nullcontext():
            await roles.verify_roles(roles_at(url), config)


def test_two_modules_of_one_role_are_refused(new_database: Callable[[str], URL]) -> None:
    url = new_database("twice")
    made = [Role(name, name, url, name, url) for name in ("events", "events_owner")]
    with pytest.raises(RoleError, match="events and events_owner would both have the role events_owner"):
        asyncio.run(roles.apply_roles(made, DatabaseConfig(url=str(url))))


@pytest.mark.slow
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
    for _ in range(2):
        code, said = kernel("roles", "--apply")
        assert (code, f"{url.database}.health" in said) == (0, True)
        assert kernel("migrate", DATABASE_ROLE_PER_MODULE="true")[0] == 0
    code, said = kernel("roles", "--apply", "--login", "nobody-at-all")
    assert (code, 'role "nobody-at-all" does not exist' in said, "Traceback" in said) == (1, True, False)
    code, said = kernel("roles", DATABASE_URL=f"sqlite:///{tmp_path}")
    assert (code, "nothing to do" in said) == (0, True)


def test_a_name_that_postgresql_would_truncate_is_refused(extend: Extend) -> None:
    config = DatabaseConfig(url="postgresql://u:p@h/shop")
    with pytest.raises(RoleError, match="DATABASE_ROLE_PREFIX"):
        extend(AsyncDBPool(config, {}, Path("/"), ["events"]), role_prefix="x" * 60).database("events")


@pytest.mark.integration
async def test_a_refused_connection_attempt_frees_its_place(extend: Extend) -> None:
    config = DatabaseConfig(url="postgresql://u:p@127.0.0.1:1/none", pool_size=1, max_overflow=1)
    pool = extend(AsyncDBPool(config, {}, Path("/"), MODULES))
    for directly in (True, False) * 4:
        with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
            async with pool.database("events").read() as session:
                await whom(session, directly=directly)
    await pool.close()
