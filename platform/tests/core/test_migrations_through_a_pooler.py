"""Migrations with a PgBouncer in front of PostgreSQL: they get a session of their own, or are refused."""

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
# Of this database only: pg_locks lists the whole server, where other tests migrate at the same time.
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
    """Poolers in transaction mode: by default, ignoring startup parameters, and alternating connections."""
    with pgbouncer(database, tmp_path, **request.param) as pooler:
        yield pooler


def histories(root: Path, **variables: str) -> list[History]:
    return list(Kernel(settings_for(root, variables)).histories())


async def test_a_migration_through_a_pooler_of_transactions_is_refused_without_effect(
    root: Path, database: URL, transactions: PgBouncer
) -> None:
    history = histories(root, DATABASE_URL=transactions.url)[0]
    for action in (history.upgrade(), history.pending(), history.stamp("0001")):
        with pytest.raises(MigrationError, match=r"pooler in transaction mode.*set DATABASE_DIRECT_URL"):
            await action
    assert query(database, LOCKS) == "0"
    assert query(database, TABLES) == "0"
    assert query(database, "SELECT count(*) FROM pg_namespace WHERE nspname = 'health'") == "0"
    # No lock is left behind that would block a direct migration.
    await histories(root, DATABASE_URL=str(database), DATABASE_MIGRATION_WAIT_SECONDS="1")[0].upgrade()


async def test_with_a_direct_url_migrations_bypass_the_pooler(
    root: Path, database: URL, transactions: PgBouncer
) -> None:
    for history in histories(root, DATABASE_URL=transactions.url, DATABASE_DIRECT_URL=str(database)):
        await history.upgrade()
        assert await history.pending() == []
    assert query(database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == "0"
    assert query(database, LOCKS) == "0"


async def test_a_migration_through_a_pooler_of_sessions_creates_the_tables_in_their_schema(
    root: Path, database: URL, tmp_path: Path
) -> None:
    with pgbouncer(database, tmp_path, pool_mode="session", server_reset_query="DISCARD ALL") as pooler:
        for history in histories(root, DATABASE_URL=pooler.url):
            await history.upgrade()
            assert await history.pending() == []
    assert query(database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == "0"


async def test_a_session_is_distinguished_from_a_pooler_under_load(transactions: PgBouncer) -> None:
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
