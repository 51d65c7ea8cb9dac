"""The application around the modules: errors, ids, hosts, docs, transactions, start and stop."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import httpx2
import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.engine import URL

from kernel.application import create_app
from kernel.extension import Extension, installed
from kernel.runtime import Kernel
from kernel.testing import query, settings_for
from tests.core.project import MANIFEST, MODELS, imported_alone, running_project, write_migration, write_project
from tests.core.waiting import until

SENTINEL = "s3ntinel-of-a-caller"

PROBE = """
from typing import Annotated
from fastapi import APIRouter, Body, Depends, HTTPException, Response
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from kernel import Session, Unavailable, Conflict, with_session
from kernel.database import BaseRepository, DatabaseUnavailable
from modules.probe.models import Thing

router = APIRouter()

@router.get("/crash")
async def crash() -> None:
    raise RuntimeError("SENTINEL")

@router.get("/conflict")
async def conflict() -> None:
    raise Conflict("It is so.")

@router.get("/busy")
async def busy() -> None:
    raise Unavailable("Later.", retry_after_seconds=7)

@router.get("/limited")
async def limited() -> None:
    raise HTTPException(429, headers={"Retry-After": "3"})

@router.get("/wrong-answer")
async def wrong_answer() -> int:
    return "SENTINEL"

@router.post("/things")
async def create(name: Annotated[str, Body(embed=True, max_length=10)], session: Session) -> int:
    session.add(Thing(name=name))
    await session.flush()
    return 1

@router.post("/nameless")
async def nameless(session: Session) -> None:
    await session.execute(text("INSERT INTO things (name) VALUES (NULL)"))

@router.post("/fails-after-writing")
async def fails_after_writing(session: Session) -> None:
    session.add(Thing(name="ghost"))
    await session.flush()
    raise Conflict("No.")

@router.post("/fails-at-commit")
async def fails_at_commit(session: Session) -> dict[str, str]:
    await session.execute(text("PRAGMA defer_foreign_keys = ON"))
    await session.execute(text("CREATE TABLE child (id INTEGER REFERENCES things (id))"))
    await session.execute(text("INSERT INTO child VALUES (99)"))
    return {"status": "created"}

@router.get("/writes")
async def writes(session: Session) -> None:
    session.add(Thing(name="x"))
    await session.flush()

@router.get("/count")
async def count(session: Session) -> int:
    return await BaseRepository(Thing, session).count()
""".replace("SENTINEL", SENTINEL)

FILES = {"probe/router.py": PROBE, "probe/models.py": MODELS}
BASE = "/api/v1/probe"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_migration(tmp_path, "probe")


async def ask(
    root: Path, method: str, path: str, *, variables: dict[str, str] | None = None, **options: object
) -> httpx2.Response:
    async with running_project(root, FILES, variables) as (_, client):
        return await client.request(method, path, **options)  # type: ignore[arg-type]


# Errors


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/nowhere", {}, 404),
        ("GET", f"{BASE}/nowhere", {}, 404),
        ("DELETE", f"{BASE}/count", {}, 405),
        ("GET", f"{BASE}/conflict", {}, 409),
        ("POST", f"{BASE}/things", {"content": b"x" * 2_000_000, "headers": {"content-type": "application/json"}}, 413),
        ("POST", f"{BASE}/things", {"content": b"<x/>", "headers": {"content-type": "text/xml"}}, 415),
        ("POST", f"{BASE}/things", {"json": {"name": "x" * 11}}, 422),
        ("POST", f"{BASE}/things", {"content": b"{", "headers": {"content-type": "application/json"}}, 422),
        ("POST", f"{BASE}/nameless", {}, 422),
        ("GET", f"{BASE}/limited", {}, 429),
        ("GET", f"{BASE}/crash", {}, 500),
        ("GET", f"{BASE}/wrong-answer", {}, 500),
        ("GET", f"{BASE}/busy", {}, 503),
    ],
)
async def test_every_failure_is_problem_details(
    root: Path, method: str, path: str, options: dict[str, object], status: int
) -> None:
    answer = await ask(root, method, path, **options)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["type"]) == (status, "about:blank")
    assert body["title"]
    assert body["request_id"] == answer.headers["x-request-id"]
    if status == 405:
        assert answer.headers["allow"] == "GET, HEAD"
    if status in {429, 503}:
        assert answer.headers["retry-after"] in {"3", "7"}


async def test_a_body_that_grows_over_the_limit_is_refused_without_a_declared_length(root: Path) -> None:
    sent = 0

    async def body() -> object:  # type: ignore[misc]
        nonlocal sent
        for _ in range(100):
            sent += 100_000
            yield b"x" * 100_000

    answer = await ask(
        root,
        "POST",
        f"{BASE}/things",
        content=body(),
        headers={"content-type": "application/json", "transfer-encoding": "chunked"},
    )
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "body",
    [
        f'{{"name": 1, "{SENTINEL}": "{SENTINEL}"}}',
        f'{{"name": ["{SENTINEL}"]}}',
        f'{{"name": "{SENTINEL}"}}',
        f'{{"name": "{SENTINEL}',
        '{"name": NaN}',
        '{"name": "\\ud800"}',
        f'"{SENTINEL}"',
    ],
)
async def test_a_refusal_never_repeats_the_input(root: Path, body: str) -> None:
    answer = await ask(root, "POST", f"{BASE}/things", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert SENTINEL not in answer.text
    assert answer.json()["errors"]


async def test_without_debugging_an_unexpected_error_shows_no_details(root: Path) -> None:
    quiet = {"APPLICATION_DEBUG": "false"}
    answer = await ask(root, "GET", f"{BASE}/crash", variables=quiet)
    assert SENTINEL not in answer.text
    assert "traceback" not in answer.json()


async def test_with_debugging_an_unexpected_error_shows_its_traceback(root: Path) -> None:
    answer = await ask(root, "GET", f"{BASE}/crash")
    assert SENTINEL in "".join(answer.json()["traceback"])


# Ids, logs, hosts, headers


async def test_a_callers_request_id_is_kept_and_a_bad_one_replaced(root: Path) -> None:
    async with running_project(root, FILES) as (_, client):
        good = await client.get(f"{BASE}/count", headers={"x-request-id": "abc-123_4.5"})
        assert good.headers["x-request-id"] == "abc-123_4.5"
        for bad in ("a b", "x" * 129, "ümläut".encode(), '"', "a;b"):
            answer = await client.get(f"{BASE}/count", headers={"x-request-id": bad})
            assert len(answer.headers["x-request-id"]) == 32
        other = await client.get(f"{BASE}/count")
        assert other.headers["x-request-id"] != answer.headers["x-request-id"]


async def test_every_log_line_of_a_request_has_its_id(root: Path) -> None:
    async with running_project(root, FILES) as (_, client):
        with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
            await client.get(f"{BASE}/crash", headers={"x-request-id": "follow-me"})
    by_event = {line["event"]: line for line in lines}
    assert by_event["unexpected error"]["request_id"] == "follow-me"
    assert by_event["request"]["request_id"] == "follow-me"
    assert by_event["request"]["status"] == 500
    assert by_event["request"]["duration_ms"] >= 0


async def test_only_allowed_hosts_are_served(root: Path) -> None:
    variables = {"SERVER_ALLOWED_HOSTS": "api.example.org,*.example.com"}
    async with running_project(root, FILES, variables) as (_, client):
        statuses = {
            host: (await client.get(f"{BASE}/count", headers={"host": host})).status_code
            for host in ("api.example.org", "api.example.org:8000", "a.example.com", "127.0.0.1:8000", "[::1]:8000")
        }
        assert set(statuses.values()) == {200}
        for host in ("evil.org", "example.com", "api.example.org.evil.org", "evilexample.com", ""):
            answer = await client.get(f"{BASE}/count", headers={"host": host})
            assert answer.status_code == 400
            assert answer.headers["content-type"] == "application/problem+json"


async def test_every_answer_has_the_security_headers(root: Path) -> None:
    async with running_project(root, FILES) as (_, client):
        for path in (f"{BASE}/count", "/nowhere", f"{BASE}/crash", "/docs"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert "frame-ancestors 'none'" in headers["content-security-policy"]


# Docs


async def test_production_shows_no_docs(tmp_path: Path) -> None:
    verifies_tokens = "bearer_tokens" in installed().extensions
    issuer = {"AUTH_ISSUER": "https://id.example", "AUTH_AUDIENCE": "api"} if verifies_tokens else {}
    with imported_alone():
        write_project(tmp_path, {"plain/module.py": MANIFEST})
        app = create_app(
            settings_for(
                tmp_path,
                {
                    "ENVIRONMENT": "prod",
                    "DATABASE_URL": "postgresql://u:pw-1@h/d",
                    **issuer,
                },
            )
        )
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
            for path in ("/docs", "/redoc", "/openapi.json", "/docs/assets/swagger-ui.css"):
                assert (await client.get(path)).status_code == 404
            headers = (await client.get("/")).headers
            assert headers["strict-transport-security"].startswith("max-age=")


# Transactions


async def test_a_failed_commit_is_never_a_success(root: Path) -> None:
    async with running_project(root, FILES) as (_, client):
        answer = await client.post(f"{BASE}/fails-at-commit")
        assert answer.status_code == 409
        assert "created" not in answer.text


async def test_the_writes_of_a_failed_handler_are_rolled_back(root: Path) -> None:
    async with running_project(root, FILES) as (_, client):
        assert (await client.post(f"{BASE}/fails-after-writing")).status_code == 409
        assert (await client.get(f"{BASE}/count")).json() == 0


async def test_a_duplicate_row_is_a_conflict(root: Path) -> None:
    async with running_project(root, FILES) as (_, client):
        assert (await client.post(f"{BASE}/things", json={"name": "a"})).status_code == 200
        again = await client.post(f"{BASE}/things", json={"name": "a"})
        assert again.status_code == 409
        assert (await client.get(f"{BASE}/count")).json() == 1


async def test_a_write_in_a_get_is_a_server_error(root: Path) -> None:
    answer = await ask(root, "GET", f"{BASE}/writes")
    assert answer.status_code == 500
    assert "ReadOnlySession" in "".join(answer.json()["traceback"])


async def test_concurrent_read_modify_writes_lose_no_update_on_sqlite(root: Path) -> None:
    async with running_project(root, FILES) as (app, client):
        await client.post(f"{BASE}/things", json={"name": "0"})
        database = app.kernel.pool.database("probe")

        async def increment() -> None:
            async with database.transaction() as session:
                value = int(await session.scalar(text("SELECT name FROM things")) or 0)
                await session.execute(text("UPDATE things SET name = :name"), {"name": str(value + 1)})

        await asyncio.gather(*(increment() for _ in range(100)))
        async with database.read() as session:
            assert await session.scalar(text("SELECT name FROM things")) == "100"
            modes = [
                (await session.execute(text(f"PRAGMA {name}"))).scalar() for name in ("journal_mode", "foreign_keys")
            ]
        assert modes == ["wal", 1]


# Start and stop

RESOURCE = """
from contextlib import asynccontextmanager
from kernel import Module

@asynccontextmanager
async def resource(context):
    seen.append(f"open {context.name}")
    if context.name == FAILS:
        raise RuntimeError("cannot open")
    try:
        yield context.name
    finally:
        seen.append(f"close {context.name}")

seen = __import__("sys").modules["tests.core.project"].__dict__.setdefault("seen", [])
FAILS = "FAILING"
module = Module(owner="team", depends_on=DEPENDS, lifespan=resource)
"""


@pytest.fixture
def seen() -> list[str]:
    from tests.core import project  # noqa: PLC0415  # the modules above write into it

    project.__dict__["seen"] = []
    return project.__dict__["seen"]  # type: ignore[no-any-return]


def resources(fails: str) -> dict[str, str]:
    return {
        f"{name}/module.py": RESOURCE.replace("FAILING", fails).replace("DEPENDS", repr(depends))
        for name, depends in (("a", {"b"}), ("b", {"c"}), ("c", frozenset()))
    }


async def test_resources_open_in_order_and_close_in_reverse(tmp_path: Path, seen: list[str]) -> None:
    async with running_project(tmp_path, resources(fails="none")) as (app, _):
        assert app.kernel.is_started
    assert seen == ["open c", "open b", "open a", "close a", "close b", "close c"]
    assert not app.kernel.is_started


async def test_a_start_that_fails_half_way_closes_opened_resources(tmp_path: Path, seen: list[str]) -> None:
    with pytest.raises(RuntimeError, match="cannot open"):
        async with running_project(tmp_path, resources(fails="a")):
            pass
    assert seen == ["open c", "open b", "open a", "close b", "close c"]


@pytest.mark.parametrize("fails", ["none", "a"])
async def test_no_connection_outlives_the_application_after_any_failure(
    tmp_path: Path, seen: list[str], new_database: Callable[[str], URL], fails: str
) -> None:
    """The database and an upstream count their connections."""
    url = new_database("closing")
    held: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.add(writer)
        while await reader.read(1000):
            writer.write(b"HTTP/1.1 204 -\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        held.remove(writer)

    async def connected() -> set[str]:
        counted = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{url.database}'"
        number = await asyncio.to_thread(query, url.set(database="postgres"), counted)
        return ({"upstream"} if held else set()) | ({"database"} if number != "0" else set())

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    neighbour = "{}:{}".format(*server.sockets[0].getsockname())
    with imported_alone():
        write_project(tmp_path, resources(fails=fails))
        app = create_app(settings_for(tmp_path, {"DATABASE_URL": url.render_as_string(hide_password=False)}))
        kernel = app.kernel

        class Use(Extension):
            """Uses each connection before the modules start."""

            name = "use"

            @asynccontextmanager
            async def lifespan(self, kernel: Kernel) -> AsyncIterator[None]:
                async with kernel.pool.database().read() as session:
                    await session.execute(text("SELECT 1"))
                await kernel.http.get_client().get(f"http://{neighbour}")
                assert await connected() == {"database", "upstream"}
                yield

        kernel.extensions = (*kernel.extensions, Use())
        with nullcontext() if fails == "none" else pytest.raises(RuntimeError, match="cannot open"):
            async with app.router.lifespan_context(app):
                assert await connected() == {"database", "upstream"}
    assert "open a" in seen

    async def are_all_closed() -> bool:
        return not await connected()

    await until(are_all_closed, 5)
    server.close()
    with pytest.raises(RuntimeError, match="not open"):
        kernel.http.get_client()


async def test_two_applications_live_in_one_process(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with imported_alone():
        write_project(root, FILES)
        apps = [
            create_app(settings_for(root, {"DATABASE_URL": f"sqlite:///{tmp_path_factory.mktemp(str(number))}"}))
            for number in range(2)
        ]
        async with apps[0].router.lifespan_context(apps[0]), apps[1].router.lifespan_context(apps[1]):
            counts = []
            for number, app in enumerate(apps):
                async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
                    for name in range(number + 1):
                        await client.post(f"{BASE}/things", json={"name": str(name)})
                    counts.append((await client.get(f"{BASE}/count")).json())
    assert counts == [1, 2]


async def test_creating_an_application_opens_nothing_and_does_not_change_the_process(root: Path) -> None:
    handlers = list(logging.getLogger().handlers)
    with imported_alone():
        create_app(settings_for(write_project(root, FILES), {"DATABASE_URL": f"sqlite:///{root / 'fresh'}"}))
    assert logging.getLogger().handlers == handlers
    assert not list((root / "fresh").glob("*.db"))
