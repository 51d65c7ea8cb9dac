"""Fixtures: applications on real databases, on SQLite and on PostgreSQL.

A test without a mark gets the whole application; one with `@pytest.mark.boots("events")` gets that module alone.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
import structlog
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from kernel.application import Application, create_app
from kernel.extension import load_extensions
from kernel.project import Project
from kernel.runtime import Kernel
from kernel.settings import Settings, find_root
from kernel.testing.booting import Choice, talking_to
from kernel.testing.callers import Callers
from kernel.testing.fakes import Fakes
from kernel.testing.postgresql import (
    MIGRATING,
    DatabaseAccess,
    create_database,
    empty_database,
    postgresql_server,
    query,
)

Migrated = Callable[[Choice, str], str]


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark, log to the captured output, and load the fixtures of the extensions."""
    config.addinivalue_line(
        "markers",
        'boots(module, dependencies="fakes"): the application is this module, and what it depends on is '
        'fakes, the modules themselves ("direct"), or every module of the project ("all")',
    )
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[plain])
    for extension in load_extensions(find_root(config.rootpath)):
        if extension.fixtures is not None:
            config.pluginmanager.import_plugin(extension.fixtures)


@pytest.fixture(scope="session")
def root(pytestconfig: pytest.Config) -> Path:
    """Return the project's folder."""
    return find_root(pytestconfig.rootpath)


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Iterator[URL]:
    """Provide the PostgreSQL server of this run, which all of its processes share."""
    folder = Path(tmp_path_factory.getbasetemp().anchor) / "tmp" / f"kernel-tests-{testrun_uid[:12]}"
    with postgresql_server(folder) as url:
        yield url
    if not (folder / "postmaster.pid").exists():  # No other process uses it any more.
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def new_database(postgresql: URL, worker_id: str) -> Callable[[str], URL]:
    """Provide a function that returns an empty PostgreSQL database, which no other test process uses."""
    made: set[str] = set()

    def new(name: str) -> URL:
        own = f"{name}_{worker_id}"
        if own in made and empty_database(url := postgresql.set(database=own)):
            return url
        made.add(own)
        return create_database(postgresql, own)

    return new


@pytest.fixture(scope="session")
def database_access() -> DatabaseAccess:
    """Return how applications under test reach PostgreSQL: by the login that also migrates.

    An extension may override it.
    """
    return DatabaseAccess(MIGRATING, {})


@pytest.fixture(scope="session")
def migrated(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, database_access: DatabaseAccess
) -> Migrated:
    """Provide a function that returns a database with the tables of the chosen modules, created at its first use."""
    made: dict[tuple[Choice, str], str] = {}

    def url_of(choice: Choice, kind: str) -> str:
        if (choice, kind) not in made:
            name = f"modules{len(made)}"
            if kind == "sqlite":
                url = f"sqlite:///{tmp_path_factory.mktemp(name)}"
            else:
                database = request.getfixturevalue("new_database")(name)
                query(database, f'ALTER DATABASE "{database.database}" OWNER TO {MIGRATING}')
                url = database.render_as_string(hide_password=False)
            variables = {"DATABASE_URL": _as_login(url, MIGRATING), **database_access.variables}
            asyncio.run(_migrate(choice.project(variables), database_access))
            made[choice, kind] = url
        return made[choice, kind]

    return url_of


async def _migrate(project: Project, access: DatabaseAccess) -> None:
    kernel = Kernel(*project)
    if access.prepare is not None:
        await access.prepare(kernel)
    for history in kernel.histories():
        await history.upgrade()


def _as_login(url: str, login: str) -> str:
    """Return the same database for another user; SQLite has none."""
    parts = make_url(url)
    is_server = parts.get_backend_name() == "postgresql"
    return (parts.set(username=login) if is_server else parts).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def migrated_postgresql(root: Path, migrated: Migrated) -> URL:
    """Provide a PostgreSQL database with the tables of all modules."""
    return make_url(migrated(Choice(root), "postgresql"))


@pytest.fixture(scope="session")
def migrated_sqlite(root: Path, migrated: Migrated) -> Path:
    """Provide a folder of SQLite files with the tables of all modules, to be copied."""
    return Path(migrated(Choice(root), "sqlite").removeprefix("sqlite:///"))


@pytest.fixture
def choice(request: pytest.FixtureRequest, root: Path) -> Choice:
    """Return the modules that run: those of the test's mark, or all."""
    mark = request.node.get_closest_marker("boots")
    return Choice(root) if mark is None else Choice.of(root, *mark.args, **{"dependencies": "fakes", **mark.kwargs})


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, choice: Choice, migrated: Migrated, tmp_path: Path) -> str:
    """Provide a database with empty tables, of both kinds in turn."""
    url = migrated(choice, request.param)
    if request.param == "postgresql":  # The tests of one process empty it in turn.
        asyncio.run(_empty(url))
        return url
    shutil.copytree(url.removeprefix("sqlite:///"), tmp_path / "data")
    return f"sqlite:///{tmp_path / 'data'}"


async def _empty(url: str) -> None:
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
def variables() -> Mapping[str, str]:
    """Return settings that the modules need in tests; a project's conftest.py overrides this."""
    return {}


@pytest.fixture
def project(
    choice: Choice, database_url: str, database_access: DatabaseAccess, variables: Mapping[str, str]
) -> Project:
    """Return the modules and the settings under test, those of DEV, which verifies the tables and changes nothing."""
    defaults = {"ENVIRONMENT": "dev", "AUTH_ENABLED": "false", **database_access.variables}
    return choice.project({**defaults, "DATABASE_URL": _as_login(database_url, database_access.login), **variables})


@pytest.fixture
def settings(project: Project) -> Settings:
    """Return the settings of the application under test."""
    return project.settings


@pytest.fixture
def fakes(choice: Choice, project: Project) -> Iterator[Fakes]:
    """Return the fakes of modules that do not run. A fake that is called wrongly fails the test."""
    fakes = choice.fakes(project)
    yield fakes
    fakes.verify()


@pytest_asyncio.fixture
async def application(project: Project, fakes: Fakes) -> AsyncIterator[Application]:
    """Provide the application under test, started."""
    app = create_app(project.settings, project.modules, contracts=fakes.clients())
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
def callers(application: Application) -> Callers:
    """Choose the caller of each request. Without this fixture, requests without a token may do everything."""
    return Callers(application)


@pytest_asyncio.fixture
async def client(application: Application) -> AsyncIterator[httpx2.AsyncClient]:
    """Provide a client that sends HTTP requests to the application in this process."""
    async with talking_to(application) as client:
        yield client
