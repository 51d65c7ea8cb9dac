"""A repeated request with the same key takes effect once, whichever message is lost."""

import asyncio
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from kernel.application import Application, create_app
from kernel.database import utc_now
from kernel.ext.idempotency import IdempotencyTable
from kernel.ext.idempotency.keys import IdempotencyKeys
from kernel.modules.discovery import DiscoveryError
from kernel.testing import Callers, settings_for
from kernel.testing.booting import talking_to
from tests.core.project import MODELS, imported_alone, running_project, write_migration, write_project
from tests.modules.images.pictures import picture

EVENTS, IMAGES = "/api/v1/events", "/api/v1/images"
KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
OTHER_KEY = {"Idempotency-Key": "another"}
CONCERT = {"title": "Concert", "date": "2030-05-01", "time": "20:00:00", "location": "Hall 1", "description": ""}

KEYS = """
class Idempotency(IdempotencyTable, Base):
    __tablename__ = "idempotency"
"""
THINGS = """
import asyncio
from fastapi import APIRouter, Response
from kernel import Session, requires
from kernel.ext.idempotency import idempotent
from kernel.database.pool import before_commit
from modules.things.models import Thing

router = APIRouter(dependencies=[requires(), idempotent])
is_held, may_go = asyncio.Event(), asyncio.Event()

@router.post("/held")
async def hold(session: Session) -> str:
    async def until_it_may_go() -> None:
        is_held.set()
        await may_go.wait()

    before_commit(session, until_it_may_go)  # behind the key's row
    return "done"

@router.get("/{name}")
async def read(name: str) -> str:
    return name

@router.post("/{name}")
async def create(name: str, session: Session) -> Response:
    session.add(Thing(name=name))
    if name == "refused":
        return Response("as it is", 409, headers={"X-Made": "yes"})
    return Response(b"x" * 2_000_000 if name == "large" else b"")
"""


async def rows(application: Application, module: str, table: str) -> int:
    """Return the number of rows."""
    database = application.kernel.contexts[module].database
    schema = f"{database.placement.schema}." if database.placement.schema else ""
    async with database.read() as session:
        return int(await session.scalar(text(f"SELECT count(*) FROM {schema}{table}")) or 0)


async def test_a_repeated_request_with_its_key_gets_the_first_response(
    client: httpx2.AsyncClient, application: Application
) -> None:
    first = await client.post(EVENTS, json=CONCERT, headers=KEY)
    second = await client.post(EVENTS, json=CONCERT, headers=KEY)
    assert first.status_code == second.status_code == 201
    assert second.content == first.content
    assert {name: second.headers[name] for name in ("location", "etag", "content-type", "content-length")} == {
        name: first.headers[name] for name in ("location", "etag", "content-type", "content-length")
    }
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert await rows(application, "events", "events") == 1


async def test_a_key_in_quotes_is_the_same_key(client: httpx2.AsyncClient) -> None:
    first = await client.post(EVENTS, json=CONCERT, headers={"Idempotency-Key": "a-key"})
    second = await client.post(EVENTS, json=CONCERT, headers={"Idempotency-Key": '"a-key"'})
    assert second.headers["location"] == first.headers["location"]


async def test_without_a_key_or_with_another_it_is_another_request(
    client: httpx2.AsyncClient, application: Application
) -> None:
    for headers in ({}, {}, KEY, OTHER_KEY):
        assert (await client.post(EVENTS, json=CONCERT, headers=headers)).status_code == 201
    assert await rows(application, "events", "events") == 4
    assert await rows(application, "events", "idempotency") == 2


async def test_a_key_with_another_request_is_refused(client: httpx2.AsyncClient, application: Application) -> None:
    await client.post(EVENTS, json=CONCERT, headers=KEY)
    for url, body in ((EVENTS, CONCERT | {"title": "Opera"}), (f"{EVENTS}?draft=1", CONCERT)):
        refused = await client.post(url, json=body, headers=KEY)
        assert refused.status_code == 422, url
        assert refused.json()["errors"][0] | {"message": ""} == {
            "field": "header.idempotency-key",
            "message": "",
            "code": "key_reused",
        }
    assert (await client.post(EVENTS, json=CONCERT, headers=KEY)).headers["idempotency-replayed"] == "true"
    assert await rows(application, "events", "events") == 1


@pytest.mark.parametrize("key", ["", "two words", "x" * 201, "käse", '"', '"open', "tab\there"])
async def test_an_invalid_key_is_refused(client: httpx2.AsyncClient, application: Application, key: str) -> None:
    refused = await client.post(EVENTS, json=CONCERT, headers=[("Idempotency-Key", key.encode("latin-1"))])
    assert refused.status_code == 400
    assert await rows(application, "events", "events") == 0


async def test_two_keys_are_refused(client: httpx2.AsyncClient) -> None:
    both = [("Idempotency-Key", "one"), ("Idempotency-Key", "two")]
    assert (await client.post(EVENTS, json=CONCERT, headers=both)).status_code == 400


async def test_anothers_key_is_another_key(
    client: httpx2.AsyncClient, application: Application, callers: Callers
) -> None:
    anna, bert = callers.headers("anna", "events:*"), callers.headers("bert", "events:*")
    first = await client.post(EVENTS, json=CONCERT, headers=KEY | anna)
    second = await client.post(EVENTS, json=CONCERT, headers=KEY | bert)
    assert "idempotency-replayed" not in second.headers
    assert second.headers["location"] != first.headers["location"]


async def test_a_caller_that_has_lost_its_rights_gets_no_stored_response(
    client: httpx2.AsyncClient, callers: Callers
) -> None:
    await client.post(EVENTS, json=CONCERT, headers=KEY | callers.headers("anna", "events:*"))
    refused = await client.post(EVENTS, json=CONCERT, headers=KEY | callers.headers("anna", "events:read"))
    assert refused.status_code == 403


@pytest.mark.integration
async def test_a_failed_request_can_be_repeated_with_its_key(
    client: httpx2.AsyncClient, application: Application
) -> None:
    illustrated = CONCERT | {"image_id": 1}
    # The image does not exist yet.
    assert (await client.post(EVENTS, json=illustrated, headers=KEY)).status_code == 422
    assert await rows(application, "events", "idempotency") == 0
    await client.post(IMAGES, files={"file": ("a.png", picture())})
    assert (await client.post(EVENTS, json=illustrated, headers=KEY)).status_code == 201


@pytest.mark.integration
async def test_an_upload_is_repeated_with_another_boundary(
    client: httpx2.AsyncClient, application: Application
) -> None:
    """Clients choose a new boundary for each try."""
    one, other = picture(), picture()
    bodies = [
        httpx2.Request("POST", "http://test", files={"file": ("a.png", data)}, data={"caption": "A"})
        for data in (one, one, other)
    ]
    answers = [
        await client.post(IMAGES, content=one.read(), headers=KEY | {"Content-Type": one.headers["content-type"]})
        for one in bodies
    ]
    assert bodies[0].headers["content-type"] != bodies[1].headers["content-type"]
    assert [answer.status_code for answer in answers] == [201, 201, 422]
    assert answers[1].content == answers[0].content
    assert answers[1].headers["idempotency-replayed"] == "true"
    assert await rows(application, "images", "images") == 1


async def test_a_stored_response_is_compressed_and_gets_cors_headers_for_each_caller(
    client: httpx2.AsyncClient,
) -> None:
    """A stored compressed response would reach a caller that cannot read it, with the CORS headers of another page."""
    long = CONCERT | {"description": "All of Bach. " * 200}
    page = {"Origin": "https://page.example", "Accept-Encoding": "gzip"}
    first = await client.post(EVENTS, json=long, headers=KEY | page)
    plain = await client.post(EVENTS, json=long, headers=KEY | {"Accept-Encoding": "identity"})
    again = await client.post(EVENTS, json=long, headers=KEY | page)
    assert first.headers["content-encoding"] == again.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert first.json() == plain.json() == again.json()
    assert "access-control-allow-origin" not in plain.headers
    assert again.headers.get_list("x-request-id") != first.headers.get_list("x-request-id")
    assert len(again.headers.get_list("x-request-id")) == len(again.headers.get_list("x-frame-options")) == 1


async def test_a_key_expires(client: httpx2.AsyncClient, application: Application) -> None:
    """Expired keys are deleted by a later request."""
    database = application.kernel.contexts["events"].database
    [events] = [module for module in application.kernel.modules if module.name == "events"]
    table = events.files.table(IdempotencyTable)
    assert table is not None
    for number in range(5):
        await client.post(EVENTS, json=CONCERT, headers={"Idempotency-Key": f"{number}"})
    long_ago = utc_now() - timedelta(hours=24, minutes=1)
    await database.run(table.update().values(created_at=long_ago).returning(table.c.id))
    answer = await client.post(EVENTS, json=CONCERT | {"title": "Opera"}, headers={"Idempotency-Key": "0"})
    assert answer.status_code == 201
    assert "idempotency-replayed" not in answer.headers
    keys = application.kernel.contexts["events"].get(IdempotencyKeys)
    assert keys is not None
    keys._swept_at = None  # As if the request were old.
    await client.post(EVENTS, json=CONCERT, headers=KEY)
    assert await rows(application, "events", "idempotency") == 2


async def test_the_openapi_document_lists_the_routes_that_accept_a_key(client: httpx2.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    taking = {
        (method, path)
        for path, operations in paths.items()
        for method, operation in operations.items()
        if any(one["name"] == "Idempotency-Key" for one in operation.get("parameters", ()))
    }
    assert taking == {("post", EVENTS), ("post", IMAGES)}
    assert "409" in paths[EVENTS]["post"]["responses"]


@pytest.mark.parametrize("compiled", ["true", "false"])
async def test_the_response_to_a_committed_request_is_stored_with_any_status(tmp_path: Path, compiled: str) -> None:
    variables = {"APPLICATION_COMPILED_ENDPOINTS": compiled}
    async with running_project(_things(tmp_path), _FILES, variables) as (application, client):
        first = await client.post("/api/v1/things/refused", headers=KEY)
        again = await client.post("/api/v1/things/refused", headers=KEY)
        assert first.status_code == again.status_code == 409
        assert (again.text, again.headers["x-made"], again.headers["idempotency-replayed"]) == (
            "as it is",
            "yes",
            "true",
        )
        assert await rows(application, "things", "things") == 1


@pytest.mark.parametrize("compiled", ["true", "false"])
async def test_a_failed_transaction_stores_no_key(tmp_path: Path, compiled: str) -> None:
    variables = {"APPLICATION_COMPILED_ENDPOINTS": compiled}
    async with running_project(_things(tmp_path), _FILES, variables) as (application, client):
        assert (await client.post("/api/v1/things/one")).status_code == 200
        for _ in range(2):
            failed = await client.post("/api/v1/things/one", headers=KEY)  # The name is taken.
            assert failed.status_code == 409
            assert "idempotency-replayed" not in failed.headers
        assert await rows(application, "things", "idempotency") == 0


async def test_a_response_that_is_too_large_is_not_stored_but_its_key_is(tmp_path: Path) -> None:
    async with running_project(_things(tmp_path), _FILES) as (application, client):
        assert len((await client.post("/api/v1/things/large", headers=KEY)).content) == 2_000_000
        again = await client.post("/api/v1/things/large", headers=KEY)
        assert again.status_code == 409
        assert "was carried out" in again.json()["detail"]
        assert await rows(application, "things", "things") == 1


async def test_a_read_needs_no_key(tmp_path: Path) -> None:
    async with running_project(_things(tmp_path), _FILES) as (application, client):
        for _ in range(2):
            answer = await client.get("/api/v1/things/one", headers=KEY)
            assert (answer.status_code, "idempotency-replayed" in answer.headers) == (200, False)
        assert await rows(application, "things", "idempotency") == 0


async def test_a_key_that_another_process_is_about_to_commit_is_refused_without_waiting(
    tmp_path: Path, new_database: Callable[[str], URL]
) -> None:
    """Two applications share as little as two processes."""
    url = new_database("held").render_as_string(hide_password=False)
    with imported_alone():
        settings = settings_for(write_project(_things(tmp_path), _FILES), {"DATABASE_URL": url})
        one, two = create_app(settings), create_app(settings)
        router = sys.modules["modules.things.router"]
        async with (
            one.router.lifespan_context(one),
            two.router.lifespan_context(two),
            talking_to(one) as first,
            talking_to(two) as second,
        ):
            held = asyncio.create_task(first.post("/api/v1/things/held", headers=KEY))
            await router.is_held.wait()
            async with asyncio.timeout(1):
                refused = await second.post("/api/v1/things/held", headers=KEY)
            assert (refused.status_code, refused.headers["retry-after"]) == (409, "1")
            assert "in progress" in refused.json()["detail"]
            router.may_go.set()
            assert (await held).status_code == 200
            again = await second.post("/api/v1/things/held", headers=KEY)
            assert (again.json(), again.headers["idempotency-replayed"]) == ("done", "true")


async def test_a_module_without_the_table_does_not_start(tmp_path: Path) -> None:
    root = write_project(tmp_path, {"things/models.py": MODELS, "things/router.py": THINGS})
    with imported_alone(), pytest.raises(DiscoveryError, match=r"things/router\.py uses idempotent, .* no table"):
        create_app(settings_for(root, {"DATABASE_URL": f"sqlite:///{tmp_path / 'data'}"}))


async def test_an_idempotent_route_without_a_principal_stops_the_start(tmp_path: Path) -> None:
    """One caller would get the response to another caller that chose the same key."""
    router = THINGS.replace("[requires(), idempotent]", "[public, idempotent]").replace("requires", "public")
    root = write_project(tmp_path, _FILES | {"things/router.py": router})
    with imported_alone(), pytest.raises(DiscoveryError, match=r"POST .* does not know whose keys it gets"):
        create_app(settings_for(_things(root), {"DATABASE_URL": f"sqlite:///{tmp_path / 'data'}"}))


_FILES = {
    "things/models.py": f"from kernel.ext.idempotency import IdempotencyTable\n{MODELS}{KEYS}",
    "things/router.py": THINGS,
}


def _things(root: Path) -> Path:
    """Return the project of _FILES with its migrations."""
    write_migration(root, "things")
    own = (Path(__file__).parents[2] / "migrations" / "images" / "0003_idempotency_keys.py").read_text()
    own = own.replace('revision = "0003"', 'revision = "0002"').replace(
        'down_revision = "0002"', 'down_revision = "0001"'
    )
    (root / "migrations" / "things" / "0002_keys.py").write_text(own)
    return root
