"""LISTEN over TLS, and with a PgBouncer in front of PostgreSQL."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from sqlalchemy.engine import URL
from structlog.testing import capture_logs

from kernel.ext.messaging.listen import listen
from kernel.settings import DatabaseConfig
from kernel.testing import query
from tests.core.pgbouncer import pgbouncer
from tests.core.tls_proxy import server_context, tls_proxy
from tests.core.waiting import until_true


@pytest.fixture
def database(new_database: Callable[[str], URL]) -> URL:
    return new_database("listening")


async def test_listening_uses_tls(database: URL, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = server_context(authority.issue_cert("localhost"))
    async with tls_proxy(database, context, refuses_plain=True) as proxy:
        parameters = f"sslmode=verify-full&sslrootcert={tmp_path}/ca.pem"
        url = f"postgresql://{database.username}@localhost:{proxy.port}/{database.database}?{parameters}"
        config = DatabaseConfig(url=url)
        is_connected = asyncio.Event()
        listening = asyncio.create_task(
            listen(config.get_url(), config, "channel", lambda _: is_connected.set(), pause_seconds=60)
        )
        async with asyncio.timeout(30):
            await is_connected.wait()
        assert len(proxy.encrypted) == 1
        listening.cancel()
        await asyncio.wait([listening])


IGNORED = "search_path,lock_timeout,statement_timeout,role,extra_float_digits"


@pytest.mark.parametrize("options", [{}, {"ignore_startup_parameters": IGNORED}, {"server_round_robin": 1}])
async def test_a_pooler_of_transactions_is_reported_once_and_bypassed_for_listen(
    database: URL, tmp_path: Path, options: dict[str, str | int]
) -> None:
    with pgbouncer(database, tmp_path, **options) as pooler:
        config = DatabaseConfig(url=pooler.url)
        heard: asyncio.Queue[str | None] = asyncio.Queue()
        with capture_logs() as logs:
            deaf = asyncio.create_task(listen(config.get_url(), config, "things", heard.put_nowait, pause_seconds=0.01))
            await until_true(lambda: logs)
            await asyncio.sleep(0.3)  # it tries again all the time, and may not log that
            assert not deaf.done()
            deaf.cancel()
        assert [(one["event"], "DATABASE_DIRECT_URL" in one["reason"]) for one in logs] == [("not listening", True)]
        hears = asyncio.create_task(listen(database, config, "things", heard.put_nowait, pause_seconds=0.01))
        assert await heard.get() == ""
        query(database, "NOTIFY things, 'events'")
        assert await asyncio.wait_for(heard.get(), 10) == "events"
        hears.cancel()
