"""Sessions behind a PgBouncer in transaction mode: several modules share one server connection."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.database import AsyncDBPool, Database, new_metadata
from kernel.database.errors import TransactionAborted
from kernel.ext.paging import PagedRepository, PageRequest
from kernel.ext.pool.errors import RoleError
from kernel.runtime import Kernel
from kernel.settings import DatabaseConfig
from kernel.testing import query, settings_for
from tests.core.pgbouncer import PgBouncer, pgbouncer
from tests.core.waiting import end_connections

Extend = Callable[..., AsyncDBPool]

MODULES = ("apples", "pears")


class Base(DeclarativeBase):
    metadata = new_metadata()


class Fruit(Base):
    __tablename__ = "fruits"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    weights: Mapped[list[int]] = mapped_column(sa.ARRAY(sa.Integer), default=list)


class FruitOut(BaseModel):
    id: int
    name: str
    weights: list[int]


class Fruits(PagedRepository[Fruit, int]):
    def __init__(self, session: AsyncSession) -> None:
        super().__init__(Fruit, session)


@pytest.fixture
def server(new_database: Callable[[str], URL]) -> URL:
    """Provide a database with a table and a role for each module."""
    url = new_database("pooled")
    for name in MODULES:
        role = f"{url.database}.{name}"
        query(
            url,
            f'DROP ROLE IF EXISTS "{role}"; CREATE ROLE "{role}"; CREATE SCHEMA {name}; '
            f"CREATE TABLE {name}.fruits (id serial PRIMARY KEY, name text UNIQUE, weights int[]); "
            f'GRANT USAGE ON SCHEMA {name} TO "{role}"; GRANT ALL ON ALL TABLES IN SCHEMA {name} TO "{role}"; '
            f'GRANT ALL ON ALL SEQUENCES IN SCHEMA {name} TO "{role}"',
        )
    return url


@pytest.fixture
def bouncer(server: URL, tmp_path: Path) -> Iterator[PgBouncer]:
    """Provide a pooler with a single server connection."""
    with pgbouncer(server, tmp_path, default_pool_size=1, server_round_robin=1) as started:
        yield started


@pytest.fixture
async def pool(server: URL, bouncer: PgBouncer, extend: Extend) -> AsyncIterator[AsyncDBPool]:
    config = DatabaseConfig(
        url=bouncer.url,
        pooler="transaction",
        pool_size=3,
        pool_timeout_seconds=60,
    )
    pool = extend(AsyncDBPool(config, {}, Path("/"), MODULES), role_prefix=f"{server.database}.")
    yield pool
    await pool.close()


async def use(database: Database, module: str, number: int) -> None:
    """Write and read in every way, each time under the module's own role."""
    who = sa.text("SELECT current_user")
    async with database.transaction() as session:
        assert str(await session.scalar(who)).endswith(f".{module}")
        made = await Fruits(session).create(into=FruitOut, name=f"{module} {number}", weights=[number])
        await session.execute(sa.update(Fruit).where(Fruit.id == made.id).values(weights=[number, number]))
    async with database.read() as session:
        assert str(await session.scalar(who)).endswith(f".{module}")
        assert (await Fruits(session).get_by_id(made.id, into=FruitOut)) == FruitOut(
            id=made.id, name=f"{module} {number}", weights=[number, number]
        )
        assert (await session.get(Fruit, made.id)) is not None
        assert (await Fruits(session).page(PageRequest(limit=1), FruitOut)).total
        assert [row async for row in await session.stream(sa.select(Fruit.id).where(Fruit.id == made.id))]


@pytest.mark.slow
async def test_modules_take_turns_on_one_server_connection_each_under_its_role(pool: AsyncDBPool, server: URL) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            for module in MODULES:
                group.create_task(use(pool.database(module), module, number))
    assert [query(server, f"SELECT count(*) FROM {module}.fruits") for module in MODULES] == ["20", "20"]


async def test_several_processes_share_server_connections(
    pool: AsyncDBPool, server: URL, monkeypatch: pytest.MonkeyPatch, extend: Extend
) -> None:
    """In each process asyncpg numbers the names of its statements from 1; here the numbers start again instead."""
    for number in range(5):
        monkeypatch.setattr("asyncpg.connection._uid", 0)
        process = extend(AsyncDBPool(pool.config, {}, Path("/"), MODULES), role_prefix=f"{server.database}.")
        await use(process.database("apples"), "apples", number)
        await process.close()


async def test_a_module_reaches_no_table_of_another_through_the_pooler(pool: AsyncDBPool) -> None:
    async with pool.database("apples").read() as session:
        with pytest.raises(DBAPIError, match="permission denied"):
            await session.execute(sa.text("SELECT * FROM pears.fruits"))
    async with pool.database("pears").read() as session:
        assert await Fruits(session).count() == 0


async def test_a_failed_statement_is_never_committed_through_the_pooler(pool: AsyncDBPool, server: URL) -> None:
    database = pool.database("apples")

    async def swallow() -> None:
        async with database.transaction() as session:
            await Fruits(session).create(into=FruitOut, name="one", weights=[])
            with pytest.raises(IntegrityError):
                await Fruits(session).create(into=FruitOut, name="one", weights=[])

    with pytest.raises(TransactionAborted):
        await swallow()
    assert query(server, "SELECT count(*) FROM apples.fruits") == "0"


async def test_the_health_check_and_a_lost_connection_work_through_the_pooler(pool: AsyncDBPool, server: URL) -> None:
    database = pool.database("apples")
    await database.check()
    assert end_connections(server) > 0
    await database.check()
    await use(database, "apples", 1)


@pytest.mark.parametrize("writes", [False, True])
async def test_a_cancelled_statement_leaves_the_server_connection_to_others(pool: AsyncDBPool, writes: bool) -> None:
    database = pool.database("apples")

    async def impatient() -> None:
        async with database.transaction() if writes else database.read() as session:
            async with asyncio.timeout(0.1):
                await session.execute(sa.text("SELECT pg_sleep(1)::text"))

    with pytest.raises(TimeoutError):
        await impatient()
    await use(pool.database("pears"), "pears", 1)


async def test_roles_behind_a_pooler_that_the_settings_do_not_name_stop_the_start(
    root: Path, server: URL, bouncer: PgBouncer
) -> None:
    variables = {
        "ENVIRONMENT": "dev",
        "AUTH_ENABLED": "false",
        "DATABASE_URL": bouncer.url,
        "DATABASE_DIRECT_URL": server.render_as_string(hide_password=False),
        "DATABASE_ROLE_PER_MODULE": "true",
    }
    kernel = Kernel(settings_for(root, variables))
    with pytest.raises(RoleError, match="set DATABASE_POOLER=transaction"):
        async with kernel.running():
            pass
