"""BaseRepository on both databases: one statement per operation, stable order, projections, optimistic locking."""

import inspect
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from pydantic import BaseModel
from sqlalchemy import String, event, select, text, true
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.database import (
    AsyncDBPool,
    BaseRepository,
    BigId,
    Database,
    ReadOnlySession,
    StaleVersion,
    Timestamps,
    Versioned,
    new_metadata,
)
from kernel.database.errors import NotAllowed
from kernel.settings import DatabaseConfig


class Base(DeclarativeBase):
    metadata = new_metadata()


class User(Timestamps, Versioned, Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    email: Mapped[str] = mapped_column(String(100), unique=True)
    name: Mapped[str] = mapped_column(String(100), default="")
    nickname: Mapped[str | None] = mapped_column(String(100))


class Tag(Base):
    __tablename__ = "tags"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)

    label: Mapped[str] = mapped_column(String(10), default="")


class TagOut(BaseModel):
    id: int
    label: str


class UserName(BaseModel):
    id: int
    name: str


class UserRepository(BaseRepository[User, int]):
    async def find_by_email(self, email: str) -> User | None:
        return await self.one(self.select().where(User.email == email))


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    new_database: Callable[[str], URL],
    extend: Callable[[AsyncDBPool], AsyncDBPool],
) -> AsyncIterator[Database]:
    url = f"sqlite:///{tmp_path}" if request.param == "sqlite" else new_database("repository").render_as_string(False)
    pool = AsyncDBPool(DatabaseConfig(url=url))
    extend(pool)
    database = pool.database("users")
    async with database.writer.begin() as connection:
        if request.param == "postgresql":
            await connection.execute(text("CREATE SCHEMA users"))
        await connection.run_sync(Base.metadata.create_all)
    yield database
    await pool.close()


@pytest.fixture
async def session(database: Database) -> AsyncIterator[AsyncSession]:
    async with database.transaction() as session:
        yield session


@pytest.fixture
def users(session: AsyncSession) -> UserRepository:
    return UserRepository(User, session)


@pytest.fixture
def statements(database: Database) -> list[str]:
    """Record every statement that reaches the driver from here on, except BEGIN."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith("BEGIN"):
            seen.append(statement)

    for engine in (database.writer, database.reader):
        event.listen(engine.sync_engine, "before_cursor_execute", note)
    return seen


async def test_a_created_row_is_found_by_a_query_of_the_repository(users: UserRepository) -> None:
    created = await users.create(email="ada@example.org")
    assert created.id is not None
    assert await users.find_by_email("ada@example.org") is created
    assert await users.find_by_email("bob@example.org") is None


async def test_each_operation_is_one_statement(
    users: UserRepository, statements: list[str], database: Database
) -> None:
    created = await users.create(email="a")
    counts = [len(statements)]

    async def counted(what: object) -> None:
        before = len(statements)
        await what  # type: ignore[misc]  # a coroutine of any result
        counts.append(len(statements) - before)

    await counted(users.create(email="b", into=UserName))
    await counted(users.create_many([{"email": "c"}, {"email": "d"}]))
    await counted(users.get_by_id(created.id))
    await counted(users.get_by_id(created.id, into=UserName))
    await counted(users.get_all())
    await counted(users.count())
    await counted(users.exists(1))
    await counted(users.update(created.id, name="x"))
    await counted(users.update(created.id, into=UserName, expected_version=2, name="y"))
    await counted(users.delete(created.id))
    inserts = 1 if database.placement.schema else 2  # SQLite cannot return many keys in a known order.
    assert counts == [1, 1, inserts] + [1] * (len(counts) - 3)


async def test_a_projection_selects_the_columns_of_its_schema_and_no_others(
    users: UserRepository, statements: list[str]
) -> None:
    created = await users.create(email="a", name="Ada")
    found = await users.get_by_id(created.id, into=UserName)
    assert found == UserName(id=created.id, name="Ada")
    assert "email" not in statements[-1]
    assert "created_at" not in statements[-1]


async def test_a_schema_with_a_field_without_a_column_is_refused(users: UserRepository) -> None:
    class Wrong(BaseModel):
        id: int
        shoe_size: int

    with pytest.raises(TypeError, match="shoe_size"):
        await users.get_all(into=Wrong)


async def test_datetimes_are_returned_in_utc(users: UserRepository, session: AsyncSession) -> None:
    created = await users.create(email="a")
    await session.flush()
    session.expunge_all()
    read = await users.get_by_id(created.id)
    assert read is not None
    assert read.created_at == created.created_at
    assert str(read.created_at.tzinfo) == "UTC"


async def test_lists_are_ordered_by_key_without_another_order(users: UserRepository) -> None:
    await users.create_many([{"email": str(number)} for number in range(5)])
    assert [user.id for user in await users.get_all(limit=2, offset=1)] == [2, 3]


async def test_ties_are_broken_by_key(users: UserRepository) -> None:
    await users.create_many([{"email": str(number), "name": "same"} for number in range(4)])
    listed = await users.get_all(10, 0, User.name.desc(), into=UserName)
    assert [user.id for user in listed] == [1, 2, 3, 4]


async def test_rows_have_the_requested_order(users: UserRepository) -> None:
    await users.create_many([{"email": str(number), "name": f"n{number}"} for number in range(4)])
    assert [user.id for user in await users.get_all(2, 1, User.name.desc())] == [3, 2]


async def test_an_update_raises_the_version_and_the_time_of_the_change(users: UserRepository) -> None:
    created = await users.create(email="a")
    made_at = created.updated_at
    changed = await users.update(created.id, name="Ada")
    assert changed is created
    assert (changed.version, changed.name) == (2, "Ada")
    assert changed.updated_at > made_at


async def test_a_change_of_an_outdated_version_is_refused(users: UserRepository) -> None:
    created = await users.create(email="a")
    await users.update(created.id, expected_version=1, name="first")
    with pytest.raises(StaleVersion):
        await users.update(created.id, expected_version=1, name="second")
    with pytest.raises(StaleVersion):
        await users.delete(created.id, expected_version=[1, 7])
    with pytest.raises(StaleVersion):
        await users.update(created.id, expected_version=[], name="third")


async def test_a_missing_row_is_neither_updated_nor_deleted(users: UserRepository) -> None:
    assert await users.update(99, name="x") is None
    assert await users.update(99, expected_version=1, name="x", into=UserName) is None
    assert await users.delete(99) is False
    assert await users.delete(99, expected_version=1) is False


async def test_a_version_cannot_be_expected_of_a_model_without_one(session: AsyncSession) -> None:
    with pytest.raises(TypeError, match="Versioned"):
        await BaseRepository(Tag, session).delete(1, expected_version=1)


async def test_an_entity_that_another_caller_changed_is_not_overwritten(database: Database) -> None:
    async with database.transaction() as session:
        await UserRepository(User, session).create(email="a")
    async with database.read() as session:
        stale = await UserRepository(User, session).get_by_id(1)
    async with database.transaction() as session:
        await UserRepository(User, session).update(1, name="other")
    assert stale is not None
    with pytest.raises(Exception, match="expected to update 1 row"):
        async with database.transaction() as session:
            (await session.merge(stale, load=False)).name = "mine"


async def test_an_update_without_values_returns_the_row_as_it_is(session: AsyncSession) -> None:
    tags = BaseRepository[Tag, int](Tag, session)
    created = await tags.create(into=TagOut, label="red")
    assert await tags.update(created.id, into=TagOut) == created
    assert await tags.update(99, into=TagOut) is None
    entity = await tags.update(created.id)
    assert entity is not None
    assert entity.label == "red"


async def test_an_update_without_values_is_refused_for_a_row_that_the_caller_may_not_change(
    session: AsyncSession,
) -> None:
    tags = BaseRepository[Tag, int](Tag, session)
    created = await tags.create(into=TagOut, label="red")
    tags.restrict(true(), Tag.label == "blue")
    with pytest.raises(NotAllowed):
        await tags.update(created.id, into=TagOut)


async def test_an_update_without_values_still_counts_as_a_change_of_a_versioned_row(users: UserRepository) -> None:
    created = await users.create(email="a")
    changed = await users.update(created.id)
    assert changed is not None
    assert changed.version == 2


@pytest.mark.parametrize("uses_orm", [False, True])
async def test_the_number_of_expected_versions_does_not_change_the_statement(
    database: Database, seen_by_the_driver: list[str], *, uses_orm: bool
) -> None:
    async with database.transaction() as session:
        if uses_orm:
            await session.connection()
        users = UserRepository(User, session)
        created = await users.create(email="a", into=UserName)
        seen_by_the_driver.clear()
        for expected in (1, [1, 2], frozenset(range(9_000)), range(40_000)):
            changed = await users.update(created.id, into=UserName, expected_version=expected, name="x")
            assert changed is not None
            with pytest.raises(StaleVersion):
                await users.delete(created.id, expected_version=[one + 100_000 for one in range(1, 3)])
    changes = {text for text in seen_by_the_driver if text.startswith(("UPDATE", "DELETE"))}
    assert len(changes) == 2


async def test_a_read_session_refuses_to_write(database: Database) -> None:
    async with database.read() as session:
        users = UserRepository(User, session)
        for write in (users.create(email="a"), users.update(1, name="x"), users.delete(1), users.create_many([{}])):
            with pytest.raises(ReadOnlySession):
                await write
        session.add(User(email="a"))
        with pytest.raises(ReadOnlySession):
            await session.flush()


async def test_the_original_usage_works_on_sqlite_in_memory() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine) as session:
        repository = UserRepository(User, session)
        user = await repository.create(email="ada@example.org")
        assert (await repository.find_by_email("ada@example.org")) is user
        assert await session.scalar(select(User.id)) == user.id
    await engine.dispose()


async def test_the_pool_gives_sessions_of_a_database_in_memory() -> None:
    pool = AsyncDBPool(DatabaseConfig(url="sqlite+aiosqlite:///:memory:"))
    async with pool.database().writer.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with pool.get_session() as session:
        await UserRepository(User, session).create(email="a")
    async with pool.get_session() as session:
        assert await UserRepository(User, session).count() == 1
    await pool.close()


@pytest.mark.parametrize("use", ["flush", "commit", "info", "in_transaction"])
async def test_a_deleted_row_stays_deleted_after_any_use_of_the_session(database: Database, use: str) -> None:
    """A session that became an ORM session without an ORM statement rolled back earlier writes on the driver."""
    async with database.transaction() as session:
        user = await UserRepository(User, session).create(into=UserName, email="a@example.com")
    async with database.transaction() as session:
        assert await UserRepository(User, session).delete(user.id)
        used = getattr(session, use)
        if callable(used) and inspect.isawaitable(result := used()):
            await result
        assert getattr(session, "uses_orm", True)
    async with database.read() as reader:
        assert await UserRepository(User, reader).get_by_id(user.id, into=UserName) is None
