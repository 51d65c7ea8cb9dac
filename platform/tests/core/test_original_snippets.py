"""The snippets of the original architecture run as they were written."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.application import Application, create_app
from kernel.database import AsyncDBPool, BaseRepository, new_metadata
from kernel.http_client import HttpxRestClientPool
from kernel.running import NoSingleApplication
from kernel.settings import DatabaseConfig
from kernel.testing import settings_for
from tests.core.project import write_project


class Base(DeclarativeBase):
    metadata = new_metadata()


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class UserRepository(BaseRepository[User, int]):
    pass


@pytest.fixture
async def application(tmp_path: Path) -> AsyncIterator[Application]:
    """Provide a started application without modules, on SQLite."""
    app = empty_application(tmp_path / "one")
    async with app.router.lifespan_context(app):
        yield app


def empty_application(folder: Path) -> Application:
    return create_app(settings_for(write_project(folder, {}), {"DATABASE_URL": f"sqlite:///{folder}/data/all.db"}))


async def test_a_session_of_the_pools_class_belongs_to_the_running_application(application: Application) -> None:
    (Path(str(application.kernel.pool.placement(None).url.database)).parent).mkdir(parents=True, exist_ok=True)
    async with application.kernel.pool.database().writer.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncDBPool.get_session() as session:
        assert isinstance(session, AsyncSession)
        repository = UserRepository(User, session)
        user = await repository.create(name="Ada")
        changed = await repository.update(user.id, name="Grace")
        assert changed is not None
    async with AsyncDBPool.get_session() as session:
        repository = UserRepository(User, session)
        assert [one.name for one in await repository.get_all(limit=10, offset=0)] == ["Grace"]
        assert await repository.delete(user.id)
        assert await repository.get_by_id(user.id) is None


@pytest.mark.integration
async def test_a_client_of_the_pools_class_belongs_to_the_running_application_and_stays_open(
    application: Application,
) -> None:
    for _ in range(2):
        async with HttpxRestClientPool.get_client() as client:
            assert isinstance(client, httpx2.AsyncClient)
            assert client is application.kernel.http.get_client()
            assert not client.is_closed


@pytest.mark.integration
async def test_the_check_of_the_original_health_endpoint_runs(application: Application) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        async with AsyncDBPool.get_session() as session:
            assert await session.scalar(text("SELECT 1")) == 1
        async with HttpxRestClientPool.get_client() as client:
            address = server.sockets[0].getsockname()
            assert (await client.get(f"http://{address[0]}:{address[1]}/")).status_code == 200


def test_without_a_running_application_the_class_raises_an_error_with_the_remedy() -> None:
    for use in (lambda: AsyncDBPool.get_session(), lambda: HttpxRestClientPool.get_client()):  # noqa: PLW0108
        with pytest.raises(NoSingleApplication, match="0 run in this process"):
            use()


async def test_with_two_running_applications_the_class_raises_an_error_with_the_remedy(
    application: Application, tmp_path: Path
) -> None:
    other = empty_application(tmp_path / "two")
    async with other.router.lifespan_context(other):
        with pytest.raises(NoSingleApplication, match=r"AsyncDBPool\.get_session"):
            AsyncDBPool.get_session()
        async with application.kernel.pool.get_session() as session:
            assert await session.scalar(text("SELECT 1")) == 1
    assert HttpxRestClientPool.get_client() is application.kernel.http.get_client()


def test_the_database_settings_come_from_all_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "env_files").mkdir()
    (tmp_path / "env_files" / ".env").write_text("DATABASE_HOST=db\nDATABASE_USER=app\nDATABASE_NAME=from_file\n")
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "DATABASE_PASSWORD").write_text("hush\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRETS_DIR", str(secrets))
    monkeypatch.setenv("DATABASE_NAME", "shop")
    assert DatabaseConfig().get_database_url() == "postgresql+asyncpg://app:hush@db:5432/shop"
