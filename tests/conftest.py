"""Applications on real databases: each test gets one of its own, on SQLite and on PostgreSQL."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx2
import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from kernel.app import Application, Kernel, create_app
from kernel.settings import Settings
from kernel.testing import create_database, postgresql_server, settings_for

# As an application logs, but to wherever a test captures it.
structlog.configure(processors=[structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)])

ROOT = Path(__file__).parent.parent

Migrated = Callable[[], dict[str, str]]


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Iterator[URL]:
    """The PostgreSQL server of this run; all of its processes share it."""
    folder = Path(tmp_path_factory.getbasetemp().anchor) / "tmp" / f"kernel-tests-{testrun_uid[:12]}"
    with postgresql_server(folder) as url:
        yield url
    if not (folder / "postmaster.pid").exists():  # no other process uses it any more
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def new_database(postgresql: URL, worker_id: str) -> Callable[[str], URL]:
    """Makes an empty PostgreSQL database whose name no other test process uses."""
    return lambda name: create_database(postgresql, f"{name}_{worker_id}")


@pytest.fixture(scope="session")
def migrated_postgresql(new_database: Callable[[str], URL]) -> URL:
    """A PostgreSQL database with the tables of all modules; the tests of one process empty it in turn."""
    url = new_database("modules")
    asyncio.run(_migrate({"DATABASE_URL": url.render_as_string(hide_password=False)}))
    return url


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of SQLite files with the tables of all modules, to be copied."""
    folder = tmp_path_factory.mktemp("sqlite")
    asyncio.run(_migrate({"DATABASE_URL": f"sqlite:///{folder}"}))
    return folder


async def _migrate(variables: dict[str, str]) -> None:
    for history in Kernel(settings_for(ROOT, variables)).histories():
        await history.upgrade()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without any tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'data'}"
    make: Callable[[str], URL] = request.getfixturevalue("new_database")
    return make("empty").render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with empty tables, of both kinds in turn."""
    if request.param == "sqlite":
        shutil.copytree(request.getfixturevalue("migrated_sqlite"), tmp_path / "data")
        return f"sqlite:///{tmp_path / 'data'}"
    url: URL = request.getfixturevalue("migrated_postgresql")
    asyncio.run(_empty(url))
    return url.render_as_string(hide_password=False)


async def _empty(url: URL) -> None:
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        names = await connection.scalars(
            text(
                "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE tablename <> 'alembic_version' "
                "AND schemaname NOT IN ('pg_catalog', 'information_schema')"
            )
        )
        await connection.execute(text(f"TRUNCATE {', '.join(names)} RESTART IDENTITY CASCADE"))
    await engine.dispose()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """The settings of the application under test: those of DEV, which verifies the tables and changes nothing."""
    return settings_for(
        ROOT,
        {
            "ENVIRONMENT": "dev",
            "DATABASE_URL": database_url,
            "IMAGES_STORAGE_URL": f"file://{tmp_path / 'images'}",
            "HEALTH_CACHE_SECONDS": "0",
        },
    )


@pytest.fixture
async def application(settings: Settings) -> AsyncIterator[Application]:
    """A whole application that has been started."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def client(application: Application) -> AsyncIterator[httpx2.AsyncClient]:
    """Talks to the application as HTTP would, in this process."""
    transport = httpx2.ASGITransport(application, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http
