"""A session that is used late, twice or after an error raises a clear error and keeps no connection."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import sqlalchemy as sa
import structlog
from pydantic import BaseModel
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from kernel.application import Application
from kernel.database import AsyncDBPool, BaseRepository, Database, DatabaseUnavailable, after_commit, new_metadata
from kernel.database.errors import ConcurrentUse, SessionClosed, StalePlan, TransactionAborted
from kernel.database.session import open_sessions
from kernel.settings import DatabaseConfig
from kernel.testing import query
from tests.core.project import MODELS, running_project, write_migration
from tests.core.waiting import until_running, until_true


class Base(DeclarativeBase):
    metadata = new_metadata()


class Word(Base):
    __tablename__ = "words"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(unique=True)


class WordOut(BaseModel):
    id: int
    text: str


class Words(BaseRepository[Word, int]):
    def __init__(self, session: AsyncSession) -> None:
        super().__init__(Word, session)


@pytest.fixture(params=["sqlite", "postgresql"])
async def pool(
    request: pytest.FixtureRequest, tmp_path: Path, extend: Callable[[AsyncDBPool], AsyncDBPool]
) -> AsyncIterator[AsyncDBPool]:
    """Provide 3 + 2 connections to an empty table of words."""
    url = f"sqlite:///{tmp_path}"
    if request.param == "postgresql":
        make: Callable[[str], URL] = request.getfixturevalue("new_database")
        server = make("sessions")
        url = server.render_as_string(hide_password=False)
        query(server, "CREATE SCHEMA words")
    pool = AsyncDBPool(DatabaseConfig(url=url, pool_size=3, max_overflow=2), {}, Path("/"))
    extend(pool)
    async with pool.database("words").writer.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield pool
    await pool.close()


@pytest.fixture
def words(pool: AsyncDBPool) -> Database:
    return pool.database("words")


only_postgresql = pytest.mark.parametrize("pool", ["postgresql"], indirect=True)


def in_use(database: Database) -> int:
    pools = {database.writer.sync_engine.pool, database.reader.sync_engine.pool}
    return sum(pool.checkedout() for pool in pools)  # type: ignore[attr-defined]  # of queue pools


async def drained(database: Database) -> int:
    """Return how many connections stay in use after the abandoned tasks have ended."""
    with suppress(TimeoutError):
        await until_true(lambda: not in_use(database), 5)
    return in_use(database)


async def until_under_way(database: Database) -> None:
    """Wait until the only statement of a test runs, which only PostgreSQL shows."""
    if database.writer.dialect.name == "postgresql":
        await until_running(database.placement.url, 1)
    else:
        await until_true(lambda: in_use(database))


def slow(database: Database, seconds: float = 30) -> sa.TextClause:
    if database.writer.dialect.name == "postgresql":
        return sa.text(f"SELECT pg_sleep({seconds})::text")
    steps = int(seconds * 1_000_000)
    return sa.text(
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {steps}) SELECT count(*) FROM n"
    )


# A failed statement


async def _driver(session: AsyncSession) -> None:
    await Words(session).create(into=WordOut, text="taken")


async def _core(session: AsyncSession) -> None:
    await session.execute(sa.insert(Word).values(text="taken"))


async def _orm(session: AsyncSession) -> None:
    session.add(Word(text="taken"))
    await session.flush()


async def _text(session: AsyncSession) -> None:
    await session.execute(sa.insert(Word).from_select(["text"], sa.select(sa.literal("taken"))))


Write = Callable[[AsyncSession], Awaitable[None]]


@pytest.mark.parametrize("first", [_driver, _core, _orm])
@pytest.mark.parametrize("last", [_driver, _core, _orm, _text])
async def test_a_failed_commit_is_never_a_success(words: Database, first: Write, last: Write) -> None:
    """The caller catches the error of the last statement and continues."""
    noted: list[str] = []

    async def note() -> None:
        noted.append("committed")

    async def swallow() -> None:
        async with words.transaction() as session:
            after_commit(session, note)
            await first(session)
            with pytest.raises(IntegrityError):
                await last(session)

    with pytest.raises((TransactionAborted, InvalidRequestError)):
        await swallow()
    async with words.read() as session:
        assert await Words(session).count() == 0
    assert (noted, in_use(words)) == ([], 0)


@pytest.mark.parametrize("last", [_driver, _core, _text])
async def test_a_failed_statement_in_a_savepoint_leaves_the_transaction_usable(words: Database, last: Write) -> None:
    async with words.transaction() as session:
        await _driver(session)
        for _ in range(2):
            with suppress(IntegrityError):
                async with session.begin_nested():
                    await last(session)
        await Words(session).create(into=WordOut, text="kept")
    async with words.read() as session:
        assert {word.text for word in await Words(session).get_all(into=WordOut)} == {"taken", "kept"}


@only_postgresql
async def test_a_commit_that_the_server_answers_with_rollback_is_an_error(words: Database) -> None:
    """The statement fails on the driver's connection itself, so that only the server knows of the failure."""

    async def behind_our_back() -> None:
        async with words.transaction() as session:
            await _core(session)
            raw = await (await session.connection()).get_raw_connection()
            with suppress(Exception):
                await raw.driver_connection.execute("SELECT 1/0")  # type: ignore[union-attr]  # it is connected

    with pytest.raises(DBAPIError, match="failed"):
        await behind_our_back()
    async with words.read() as session:
        assert await Words(session).count() == 0


# Late use


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("before", ["nothing", "driver", "orm"])
async def test_an_ended_session_raises_session_closed(words: Database, writes: bool, before: str) -> None:
    async with words.transaction() if writes else words.read() as session:
        if before == "driver":
            await Words(session).count()
        elif before == "orm":
            await session.execute(sa.select(Word))
    uses: list[Callable[[], Awaitable[Any]]] = [
        lambda: Words(session).count(),
        lambda: Words(session).get_by_id(1, into=WordOut),
        lambda: Words(session).get_by_id(1),
        lambda: session.execute(sa.select(Word)),
        lambda: session.get(Word, 1),
        session.connection,
        lambda: session.stream(sa.select(Word)),
        lambda: session.run_sync(lambda inner: inner.execute(sa.select(Word))),
    ]
    for use in uses:
        with pytest.raises((SessionClosed, InvalidRequestError), match=r"ended|closed"):
            await use()
    assert in_use(words) == 0


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("orm", [False, True])
async def test_a_task_that_outlives_its_session_keeps_no_connection(words: Database, writes: bool, orm: bool) -> None:
    seconds = 0.1 if words.writer.dialect.name == "sqlite" else 30.0  # SQLite's statements cannot be interrupted.
    tasks = []
    for _ in range(6):
        with suppress(ZeroDivisionError):
            async with words.transaction() if writes else words.read() as session:
                statement = slow(words, seconds)
                work: Any = session.execute(statement) if orm else session.rows(statement)
                tasks.append(asyncio.create_task(work))
                await until_true(lambda: in_use(words) or tasks[-1].done())
                raise ZeroDivisionError
    assert await drained(words) == 0
    async with asyncio.timeout(20):
        await asyncio.gather(*tasks, return_exceptions=True)
    async with words.transaction() as session:
        await _driver(session)


@pytest.mark.parametrize("writes", [False, True])
async def test_a_session_that_several_tasks_use_at_once_returns_every_connection(words: Database, writes: bool) -> None:
    async def at_once() -> None:
        async with words.transaction() if writes else words.read() as session:
            await asyncio.gather(*(session.execute(sa.select(Word)) for _ in range(3)))

    for _ in range(20):
        with pytest.raises((ConcurrentUse, InvalidRequestError)):
            await at_once()
    assert await drained(words) == 0
    async with words.transaction() as session:
        await _driver(session)
    async with words.read() as session:
        assert await Words(session).count() == 1


async def test_a_second_task_cannot_read_the_answer_of_the_first(words: Database) -> None:
    async with words.read() as session:
        await session.execute(sa.select(Word))
        first = asyncio.create_task(session.execute(slow(words, 0.7)))
        await until_true(lambda: in_use(words))
        with pytest.raises((ConcurrentUse, InvalidRequestError)):
            await session.execute(sa.select(Word))
        await first
    assert await drained(words) == 0


async def test_a_copied_context_keeps_no_session_alive(words: Database) -> None:
    stays = asyncio.Event()
    async with words.read() as session:
        await session.execute(sa.select(Word))
        task = asyncio.create_task(stays.wait())
        identity = id(session)
    del session
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, AsyncSession) and id(one) == identity]
    assert not list(open_sessions())
    stays.set()
    await task


@pytest.mark.parametrize("load", ["execute", "get", "scalars", "run_sync"])
async def test_a_read_holds_no_connection_between_its_statements(words: Database, load: str) -> None:
    async with words.transaction() as session:
        await _driver(session)
    async with words.read() as session:
        if load == "execute":
            assert (await session.execute(sa.select(Word))).scalar_one().text == "taken"
        elif load == "get":
            assert await session.get(Word, 1) is not None
        elif load == "scalars":
            assert len((await session.scalars(sa.select(Word))).all()) == 1
        else:
            assert await session.run_sync(lambda inner: inner.scalars(sa.select(Word)).one().text) == "taken"
        assert in_use(words) == 0


# Cancellation


async def _wait_for(work: Awaitable[Any]) -> None:
    await asyncio.wait_for(work, 0.1)


async def _timeout(work: Awaitable[Any]) -> None:
    async with asyncio.timeout(0.1):
        await work


async def _fail_after(work: Awaitable[Any]) -> None:
    with anyio.fail_after(0.1):
        await work


@pytest.mark.parametrize("limit", [_wait_for, _timeout, _fail_after])
@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("before", ["nothing", "orm"])
async def test_a_timeout_around_a_statement_is_a_timeout(
    words: Database, limit: Callable[[Awaitable[Any]], Awaitable[None]], writes: bool, before: str
) -> None:
    async def impatient() -> None:
        async with words.transaction() if writes else words.read() as session:
            if before == "orm":
                await session.execute(sa.select(Word))
            await limit(session.execute(slow(words, 1)))

    with pytest.raises(TimeoutError):
        await impatient()
    assert await drained(words) == 0


async def test_a_cancelled_statement_is_cancelled(words: Database) -> None:
    async def run() -> None:
        async with words.read() as session:
            await session.execute(slow(words, 1))

    task = asyncio.create_task(run())
    await until_under_way(words)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await drained(words) == 0


@only_postgresql
async def test_a_first_connection_that_is_cancelled_is_cancelled(
    words: Database, extend: Callable[[AsyncDBPool], AsyncDBPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLAlchemy first requests the server's version, and treats a NotImplementedError as an answer."""

    def ask_slowly(_dialect: sa.Dialect, connection: sa.Connection) -> None:
        connection.exec_driver_sql("SELECT pg_sleep(30)")

    url = words.placement.url
    monkeypatch.setattr(type(words.writer.dialect), "_get_server_version_info", ask_slowly)
    new_pool = extend(AsyncDBPool(DatabaseConfig(url=url.render_as_string(hide_password=False)), {}, Path("/")))  # type: ignore[arg-type]  # pydantic makes it secret
    connecting = asyncio.create_task(count_words(new_pool.database("words")))
    await until_running(url, 1)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    monkeypatch.undo()
    assert await count_words(new_pool.database("words")) == 0
    await new_pool.close()


async def count_words(database: Database) -> int:
    async with database.read() as session:
        return len((await session.execute(sa.select(Word))).all())


@pytest.mark.parametrize("pool", ["sqlite"], indirect=True)
async def test_a_cancelled_statement_of_sqlite_is_interrupted(pool: AsyncDBPool, words: Database) -> None:
    """The statement would take minutes, and its thread would hold the file and a processor."""
    with pytest.raises(TimeoutError):
        async with words.read() as session, asyncio.timeout(0.2):
            await session.execute(slow(words, 600))
    async with asyncio.timeout(4):
        await pool.close()


async def test_a_read_session_can_be_used_after_a_timeout(words: Database) -> None:
    async with words.read() as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await session.execute(slow(words, 1))
        assert (await session.execute(sa.select(Word))).all() == []


# Streams and changed tables


async def test_a_read_session_streams(words: Database) -> None:
    async with words.transaction() as session:
        await session.execute(sa.insert(Word), [{"text": f"word {number}"} for number in range(500)])
    async with words.read() as session:
        result = await session.stream(sa.select(Word.text).order_by(Word.id))
        assert [row.text async for row in result][-1] == "word 499"
        scalars = await session.stream_scalars(sa.select(Word))
        assert len([word async for word in scalars]) == 500
        with suppress(StopAsyncIteration):
            broken_off = await session.stream(sa.select(Word))
            await anext(aiter(broken_off))
    assert in_use(words) == 0


@only_postgresql
async def test_the_first_statement_after_a_changed_table_may_be_repeated(words: Database) -> None:
    async def write(text: str) -> WordOut:
        async with words.transaction() as session:
            return await Words(session).create(into=WordOut, text=text)

    await write("before")
    async with words.writer.begin() as connection:
        await connection.execute(sa.text("ALTER TABLE words.words ALTER COLUMN id TYPE bigint"))
    with suppress(StalePlan):
        await write("after")
    assert (await write("again")).text == "again"


@only_postgresql
async def test_a_later_statement_on_a_changed_table_may_be_repeated(pool: AsyncDBPool, words: Database) -> None:
    async with words.transaction() as session:
        await _driver(session)
    async with words.writer.begin() as connection:
        await connection.execute(sa.text("ALTER TABLE words.words ALTER COLUMN id TYPE bigint"))

    async def write() -> None:
        async with words.transaction() as session:
            await session.rows(sa.select(sa.literal_column("1")))
            await Words(session).create(into=WordOut, text="later")

    for _ in range(pool.config.pool_size):
        with suppress(DatabaseUnavailable):
            await write()
            break
    async with words.read() as session:
        assert await Words(session).count() == 2


# Requests

ROUTER = """
import asyncio
from collections.abc import AsyncIterator
from fastapi import APIRouter, BackgroundTasks, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from kernel import Session
from kernel.modules.manifest import module_context
from modules.things.models import Thing

router = APIRouter()
tasks: set[asyncio.Task[object]] = set()
failures: list[str] = []

@router.post("/swallowed", status_code=201)
async def swallow(session: Session) -> None:
    session.add(Thing(name="first"))
    await session.flush()
    try:
        await session.execute(text("INSERT INTO {table} (name) VALUES ('first')"))
    except IntegrityError:
        pass

@router.api_route("/background", methods=["GET", "POST"])
async def background(session: Session, jobs: BackgroundTasks) -> None:
    await session.execute(select(Thing))
    jobs.add_task(late, session)

async def late(session: Session) -> None:
    try:
        await session.execute(select(Thing))
    except Exception as error:
        failures.append(type(error).__name__)

@router.api_route("/task", methods=["GET", "POST"])
async def task(session: Session) -> None:
    work = asyncio.create_task(outlive(session))
    tasks.add(work)
    await asyncio.sleep(0)

async def outlive(session: Session) -> None:
    try:
        for _ in range(1000):
            await session.execute(select(Thing))
            await asyncio.sleep(0)
    except Exception as error:
        failures.append(type(error).__name__)

@router.api_route("/gather", methods=["GET", "POST"])
async def gather(session: Session) -> None:
    await asyncio.gather(*(session.execute(select(Thing)) for _ in range(3)))

@router.get("/generator")
async def generator(session: Session) -> StreamingResponse:
    async def rows() -> AsyncIterator[bytes]:
        yield b"["
        await session.execute(select(Thing))
        yield b"]"
    return StreamingResponse(rows())

@router.get("/timeout")
async def timeout(session: Session) -> str:
    try:
        async with asyncio.timeout(0.05):
            await session.execute(text({slow}))
    except TimeoutError:
        return "too slow"
    return "in time"

@router.get("/stream")
async def stream(session: Session) -> int:
    return len([row async for row in await session.stream(select(Thing))])

@router.api_route("/provider", methods=["GET", "POST"])
async def provider(request: Request, session: Session, url: str) -> int:
    await session.execute(select(Thing))
    return (await module_context(request).http.get_client().get(url)).status_code

@router.post("/late-provider")
async def late_provider(request: Request, session: Session, url: str) -> int:
    session.add(Thing(name="written"))
    await session.flush()
    return (await module_context(request).http.get_client().get(url)).status_code

@router.get("/count")
async def count(session: Session) -> int:
    return len((await session.execute(select(Thing))).all())
"""


@pytest.fixture(params=["sqlite", "postgresql"])
async def running(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Application, httpx2.AsyncClient]]:
    """Provide an application with a pool of 3 + 2 connections, and a client."""
    variables = {"DATABASE_POOL_SIZE": "3", "DATABASE_MAX_OVERFLOW": "2", "DATABASE_POOL_TIMEOUT_SECONDS": "2"}
    table, statement = "things", slow_on_sqlite()
    if request.param == "postgresql":
        make: Callable[[str], URL] = request.getfixturevalue("new_database")
        variables["DATABASE_URL"] = make("late").render_as_string(hide_password=False)
        table, statement = "things.things", "SELECT pg_sleep(5)::text"
    router = ROUTER.replace("{table}", table).replace("{slow}", repr(statement))
    files = {"things/models.py": MODELS, "things/router.py": router}
    async with running_project(write_migration(tmp_path, "things"), files, variables) as started:
        yield started


def slow_on_sqlite() -> str:
    return "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) SELECT count(*) FROM n"


THINGS = "/api/v1/things"


async def test_an_error_that_a_handler_swallows_is_not_created(
    running: tuple[Application, httpx2.AsyncClient],
) -> None:
    app, client = running
    assert (await client.post(f"{THINGS}/swallowed")).status_code == 500
    assert (await client.get(f"{THINGS}/count")).json() == 0
    assert await drained(app.kernel.pool.database("things")) == 0


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "background"),
        ("POST", "background"),
        ("GET", "task"),
        ("POST", "task"),
        ("GET", "gather"),
        ("POST", "gather"),
        ("GET", "generator"),
        ("GET", "timeout"),
        ("GET", "stream"),
    ],
)
async def test_no_use_of_a_requests_session_keeps_a_connection(
    running: tuple[Application, httpx2.AsyncClient], method: str, path: str
) -> None:
    """20 times with a pool of 5: a kept connection would be missing for the last request."""
    app, client = running
    for _ in range(20):
        with suppress(httpx2.HTTPError), structlog.testing.capture_logs():
            await client.request(method, f"{THINGS}/{path}")
    assert await drained(app.kernel.pool.database("things")) == 0
    assert (await client.get(f"{THINGS}/count")).status_code == 200
    assert (await client.post(f"{THINGS}/swallowed")).status_code == 500


async def test_a_timeout_of_a_handler_does_not_count_as_an_outage(
    running: tuple[Application, httpx2.AsyncClient],
) -> None:
    _, client = running
    answer = await client.get(f"{THINGS}/timeout")
    assert (answer.status_code, answer.json()) == (200, "too slow")


async def test_a_timeout_during_the_first_connection_is_a_timeout(
    new_database: Callable[[str], URL], extend: Callable[[AsyncDBPool], AsyncDBPool]
) -> None:
    """The timeout expires at each step of connecting."""
    url = new_database("first")
    for step in range(30):
        pool = extend(AsyncDBPool(DatabaseConfig(url=url.render_as_string(hide_password=False))))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(step * 0.001), pool.database("first").read() as session:
                await session.execute(sa.text("SELECT pg_sleep(5)::text"))
        await pool.close()


# Stop and start


async def test_a_pool_that_was_closed_can_be_used_and_closed_again(pool: AsyncDBPool, words: Database) -> None:
    for number in range(2):
        async with words.transaction() as session:
            await Words(session).create(into=WordOut, text=f"word {number}")
        async with words.read() as session:
            assert await Words(session).count() == number + 1
        used = pool.database("words").writer.sync_engine.pool
        await pool.close()
        assert used.checkedin() == 0, "the pool must close its connections"  # type: ignore[attr-defined]  # of queue pools
        assert words is pool.database("words")


# Calls that leave the process


class Provider:
    """An HTTP server that counts its calls, and answers them after it is released."""

    def __init__(self) -> None:
        self.url = ""
        self.calls = 0
        self.may_answer = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.calls += 1
        await self.may_answer.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    async with await asyncio.start_server(provider.handle, "127.0.0.1", 0) as server:
        provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        yield provider


@pytest.mark.integration
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_slow_provider_holds_no_connection_of_the_database(
    running: tuple[Application, httpx2.AsyncClient], provider: Provider, method: str
) -> None:
    """12 callers wait for the provider with a pool of 3 + 2; reads of the module continue."""
    app, client = running
    asking = [
        asyncio.create_task(client.request(method, f"{THINGS}/provider", params={"url": provider.url}))
        for _ in range(12)
    ]
    await until_true(lambda: provider.calls == 12)
    assert [(await client.get(f"{THINGS}/count")).status_code for _ in range(5)] == [200] * 5
    assert await drained(app.kernel.pool.database("things")) == 0
    provider.may_answer.set()
    assert [(answer.status_code, answer.json()) for answer in await asyncio.gather(*asking)] == [(200, 200)] * 12


@pytest.mark.integration
async def test_a_call_after_a_write_is_refused_in_local_with_its_line(
    running: tuple[Application, httpx2.AsyncClient], provider: Provider
) -> None:
    _, client = running
    with structlog.testing.capture_logs() as logs:
        answer = await client.post(f"{THINGS}/late-provider", params={"url": provider.url})
    assert answer.status_code == 500
    [error] = [log["exc_info"] for log in logs if "exc_info" in log]
    assert "GET 127.0.0.1 is called at modules/things/router.py:" in str(error)
    assert "INSERT INTO" in str(error)
