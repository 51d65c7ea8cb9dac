"""Migrations where a PgBouncer stands in between: they have a session of their own, or refuse."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from kernel.database.errors import MigrationError
from kernel.database.migrations import History
from kernel.database.server_session import NoSession, connect, connect_directly
from kernel.runtime import Kernel
from kernel.settings import DatabaseConfig
from kernel.testing import query, settings_for
from tests.core.pgbouncer import PgBouncer, pgbouncer

IGNORED = "search_path,lock_timeout,statement_timeout,role,extra_float_digits"
# Of this database: pg_locks lists the whole server, where other tests migrate at the same time.
LOCKS = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
TABLES = "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"


@pytest.fixture
def database(new_database: Callable[[str], URL]) -> URL:
    return new_database("bounced")


@pytest.fixture(params=[{}, {"ignore_startup_parameters": IGNORED}, {"server_round_robin": 1}])
def transactions(request: pytest.FixtureRequest, database: URL, tmp_path: Path) -> Iterator[PgBouncer]:
    """A pooler in transaction mode: as it is, passing over what comes with a connection's start, taking turns."""
    with pgbouncer(database, tmp_path, **request.param) as pooler:
        yield pooler


def histories(root: Path, **variables: str) -> list[History]:
    return list(Kernel(settings_for(root, variables)).histories())


async def test_a_migration_through_a_pooler_of_transactions_is_refused_and_leaves_nothing(
    root: Path, database: URL, transactions: PgBouncer
) -> None:
    history = histories(root, DATABASE_URL=transactions.url)[0]
    for action in (history.upgrade(), history.pending(), history.stamp("0001")):
        with pytest.raises(MigrationError, match=r"pooler in transaction mode.*set DATABASE_DIRECT_URL"):
            await action
    assert query(database, LOCKS) == "0"
    assert query(database, TABLES) == "0"
    assert query(database, "SELECT count(*) FROM pg_namespace WHERE nspname = 'health'") == "0"
    # And so a direct one is not kept waiting.
    await histories(root, DATABASE_URL=str(database), DATABASE_MIGRATION_WAIT_SECONDS="1")[0].upgrade()


async def test_with_a_direct_url_migrations_go_past_the_pooler(
    root: Path, database: URL, transactions: PgBouncer
) -> None:
    for history in histories(root, DATABASE_URL=transactions.url, DATABASE_DIRECT_URL=str(database)):
        await history.upgrade()
        assert await history.pending() == []
    assert query(database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == "0"
    assert query(database, LOCKS) == "0"


async def test_a_pooler_of_sessions_is_good_enough_and_the_tables_are_where_they_belong(
    root: Path, database: URL, tmp_path: Path
) -> None:
    with pgbouncer(database, tmp_path, pool_mode="session", server_reset_query="DISCARD ALL") as pooler:
        for history in histories(root, DATABASE_URL=pooler.url):
            await history.upgrade()
            assert await history.pending() == []
    assert query(database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == "0"


async def test_a_session_is_told_from_a_pooler_while_others_use_it(transactions: PgBouncer) -> None:
    config = DatabaseConfig(url=transactions.url)
    url = config.get_url()

    is_over = asyncio.Event()

    async def others() -> None:
        connection = await connect(url, config)
        while not is_over.is_set():
            async with connection.transaction():
                await connection.fetchval("SELECT 1")
        await connection.close()

    async with asyncio.TaskGroup() as traffic:
        for _ in range(3):
            traffic.create_task(others())
        for _ in range(20):
            with pytest.raises(NoSession, match="transaction mode"):
                await connect_directly(url, config, "DATABASE_DIRECT_URL")
        is_over.set()
