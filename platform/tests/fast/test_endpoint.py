"""Compiled endpoints answer as FastAPI does: each request is made both ways and the responses are compared."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from kernel.application import Application
from kernel.web.dispatch import Dispatcher
from tests.core.project import MODELS, modules_of, running_project, write_migration

BASE = "/api/v1/probe"

JSON = {"content-type": "application/json"}
ITEM = {"name": "a", "size": 1, "tags": ["x"]}
KEY = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"

# Method, path and further arguments of the request.
REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    *(("GET", f"/path/{value}", {}) for value in ("7", "0", "101", "x", "1.5", "", "7/", "%31")),
    *(("GET", f"/uuid/{key}/{kind}", {}) for key in (KEY, "no") for kind in ("a", "c")),
    *(("GET", f"/converted/{path}", {}) for path in ("5/a/b", "x/a", "5/", "12/%2F%20ä")),
    *(
        ("GET", f"/query{query}", {})
        for query in ("", "?q=a", "?q=&limit=x", "?q=a&q=b&limit=2", "?q=a&many=1&many=2", "?many=x", "?q=%00%FF")
    ),
    *(
        ("GET", f"/query/model{query}", {})
        for query in (
            "",
            "?q=a&limit=3&flag=on",
            "?limit=21",
            "?limit=x&flag=x",
            "?unknown=1&unknown=2",
            "?q=a&q=b",
            "?q=",
        )
    ),
    *(("GET", f"/query/lists{query}", {}) for query in ("", "?colours=a&colours=b", "?plain=x", "?plain=2&more=1")),
    *(("GET", f"/query/open{query}", {}) for query in ("", "?q=a", "?q=a&x=1&x=2&y=3")),
    *(("GET", f"/query/page{query}", {}) for query in ("", "?limit=5&offset=2", "?cursor=&offset=1", "?limit=0")),
    ("GET", "/headers", {}),
    ("GET", "/headers", {"headers": [("x-number", "9"), ("x-many", "a"), ("x-many", "b"), ("under_score", "u")]}),
    ("GET", "/headers", {"headers": {"x-number": "x", "x-named": "n", "under-score": "no"}}),
    ("GET", "/headers", {"headers": [("x-number", "1"), ("x-number", "2")]}),
    ("GET", "/headers/required", {}),
    ("GET", "/headers/required", {"headers": {"x-needed": "3"}}),
    ("GET", "/cookies", {}),
    ("GET", "/cookies", {"headers": {"cookie": "session=abc; other=1"}}),
    *(
        ("POST", path, {"content": content, "headers": headers})
        for path in ("/body", "/body/optional", "/body/two", "/body/embedded", "/body/anything", "/body/bytes")
        for headers in (JSON, {}, {"content-type": "text/plain"}, {"content-type": "application/vnd.api+json"})
        for content in (
            json.dumps(ITEM),
            json.dumps({"item": ITEM, "other": ITEM, "number": 4}),
            json.dumps({"item": ITEM, "other": {"name": ""}}),
            "",
            "null",
            "{",
            "[1, NaN]",
            b'{"name": "\xff"}',
            "[" * 5000,
            '{"name": "a", "size": 1e400}',
        )
    ),
    ("POST", "/body", {"content": "{}", "headers": {"content-type": "application/json; charset=utf-8"}}),
    ("POST", "/form", {"data": {"name": "a"}}),
    ("POST", "/form", {"json": {"name": "a"}}),
    ("POST", "/file", {"files": {"file": b"abc"}}),
    *(
        ("GET", f"/answer/{name}", {})
        for name in (
            "model",
            "dict",
            "filtered",
            "wrong",
            "none",
            "nothing",
            "response",
            "class",
            "redirect",
            "redirect/moved",
            "redirect/asked",
            "accepted",
            "headers",
            "emptied",
            "shared",
        )
    ),
    *(
        ("GET", path, {})
        for path in (
            "/answer/emptied",
            "/answer/shared",
            "/sync",
            "/background",
            "/several",
            "/refused",
            "/raises",
            "/scoped",
        )
    ),
    *((method, "/several", {}) for method in ("PUT", "POST", "HEAD", "OPTIONS", "DELETE")),
    *(("GET", f"/depends{query}", {}) for query in ("", "?number=2", "?number=x")),
    *(("GET", f"/checked{query}", {}) for query in ("", "?number=x")),
    *(("GET", f"/managed{query}", {}) for query in ("", "?fail=1", "?fail=x", "/request")),
    ("GET", "/secured", {}),
    ("GET", "/secured", {"headers": {"authorization": "Bearer abc"}}),
    ("POST", "/things?name=one", {}),
    ("POST", "/things?name=one", {}),
    ("POST", "/things?name=two&fail=1", {}),
    ("POST", "/things", {}),
    ("GET", "/things", {}),
    ("GET", "/things/open", {}),
    ("GET", "/order/never", {}),
    ("GET", "/order/never/", {}),
    ("GET", "/nested/4", {}),
    ("GET", "/nested/x", {}),
    ("GET", "/nowhere", {}),
    ("GET", "", {}),
    ("POST", "/path/7", {}),
    *(("HEAD", path, {}) for path in ("/path/7", "/path/x", "/sync", "/nested/4", "/things", "/order/never/", "/body")),
]
LEFT_TO_FASTAPI = {
    "form",
    "file",
    "sync",
    "background",
    "managed_for_the_request",
    "secured_by_scope",
    "session_for_the_request",
}


FILES = modules_of(Path(__file__).with_name("project")) | {"probe/models.py": MODELS}


async def ask(client: httpx2.AsyncClient, method: str, path: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the response, and the record of the dependencies."""
    answer = await client.request(method, f"{BASE}{path}", **options)
    request_id = answer.headers["x-request-id"]
    return {
        "status": answer.status_code,
        "headers": sorted(pair for pair in answer.headers.multi_items() if pair[0] != "x-request-id"),
        "body": answer.content.decode(errors="replace").replace(request_id, "ID"),
        "traces": (await client.get(f"{BASE}/traces")).json(),
    }


async def answers(root: Path, *, compiled: bool) -> list[dict[str, Any]]:
    variables = {"APPLICATION_DEBUG": "false", "APPLICATION_COMPILED_ENDPOINTS": str(compiled)}
    async with running_project(write_migration(root, "probe"), FILES, variables) as (_, client):
        return [await ask(client, *request) for request in REQUESTS]


async def test_every_response_equals_that_of_fastapi(tmp_path: Path) -> None:
    ours = await answers(tmp_path / "compiled", compiled=True)
    theirs = await answers(tmp_path / "fastapi", compiled=False)
    different = [
        (request, our, their) for request, our, their in zip(REQUESTS, ours, theirs, strict=True) if our != their
    ]
    assert not different, json.dumps(different[:3], indent=1, default=repr)
    assert len({answer["status"] for answer in ours}) >= 12, "a comparison of errors alone would prove little"


def compiled_and_left(app: Application) -> tuple[set[str], set[str]]:
    """Return the names of the module's handlers: those that are compiled, and those that FastAPI handles."""
    layer: Any = app.middleware_stack
    while not isinstance(layer, Dispatcher):
        layer = getattr(layer, "_app", None) or layer.app
    routes = layer._find(f"{BASE}/")
    found: list[Any] = [endpoint for rows in routes._by_method.values() for _, endpoint, _ in rows]
    compiled = {endpoint._route.name for endpoint in found if endpoint is not None}
    contexts: list[Any] = list(iter_route_contexts(routes._router.routes))
    return compiled, {one.name for one in contexts if isinstance(one.original_route, APIRoute)} - compiled


async def test_every_route_is_compiled_unless_it_needs_fastapi(tmp_path: Path) -> None:
    async with running_project(write_migration(tmp_path, "probe"), FILES) as (app, client):
        await client.get(BASE)  # This builds the layers.
        compiled, left = compiled_and_left(app)
    assert left == LEFT_TO_FASTAPI
    assert len(compiled) > 30


async def test_an_override_applies_from_the_next_request_until_it_is_removed(tmp_path: Path) -> None:
    async with running_project(write_migration(tmp_path, "probe"), FILES) as (app, client):
        once = app.kernel.modules[0].router.routes  # type: ignore[union-attr]  # it has one
        [refused] = [route for route in once if getattr(route, "name", "") == "refused"]
        refuses = refused.dependant.dependencies[0].call  # type: ignore[attr-defined]  # of an APIRoute
        assert (await client.get(f"{BASE}/refused")).status_code == 403
        app.dependency_overrides[refuses] = lambda: None
        assert (await client.get(f"{BASE}/refused")).status_code == 200
        app.dependency_overrides.clear()
        assert (await client.get(f"{BASE}/refused")).status_code == 403


async def test_a_dependency_that_swallows_an_exception_is_reported(tmp_path: Path) -> None:
    swallows = """
from collections.abc import AsyncIterator
from typing import Annotated
from fastapi import APIRouter, Depends

router = APIRouter()

async def swallows() -> AsyncIterator[int]:
    try:
        yield 1
    except ValueError:
        pass

@router.get("")
async def fails(value: Annotated[int, Depends(swallows, scope="function")]) -> int:
    raise ValueError(value)
"""
    async with running_project(tmp_path, {"probe/router.py": swallows}) as (_, client):
        answer = await client.get(BASE)
    assert answer.status_code == 500
    assert "swallowed an exception" in answer.text


async def test_a_response_class_keeps_its_own_status(tmp_path: Path) -> None:
    async with running_project(write_migration(tmp_path, "probe"), FILES) as (_, client):
        asked = [await client.get(f"{BASE}/answer/{name}") for name in ("redirect", "redirect/moved", "accepted")]
    assert [one.status_code for one in asked] == [307, 301, 202]
    assert asked[0].headers["location"] == "/elsewhere"


OVERRIDES = """
from fastapi import APIRouter, HTTPException
from fastapi.routing import APIRoute
from starlette.routing import Match

class Handler(APIRoute):
    def get_route_handler(self):
        inner = super().get_route_handler()
        async def handler(request):
            if "x-key" not in request.headers:
                raise HTTPException(401)
            return await inner(request)
        return handler

class Handle(APIRoute):
    async def handle(self, scope, receive, send):
        if not any(name == b"x-key" for name, _ in scope["headers"]):
            raise HTTPException(401)
        await super().handle(scope, receive, send)

class Matches(APIRoute):
    def matches(self, scope):
        match, child = super().matches(scope)
        if not any(name == b"x-key" for name, _ in scope["headers"]):
            match = Match.NONE
        return match, child

class Router(APIRouter):
    async def handle(self, scope, receive, send):
        if not any(name == b"x-key" for name, _ in scope["headers"]):
            raise HTTPException(401)
        await super().handle(scope, receive, send)

async def handler() -> str:
    return "in"

async def other() -> str:
    return "other"

router = APIRouter()
for route_class in (Handler, Handle, Matches):
    one = APIRouter(route_class=route_class)
    one.get(f"/{route_class.__name__.lower()}")(handler)
    router.include_router(one)
own = Router()
own.get("/router")(handler)
"""


@pytest.mark.parametrize(("path", "status"), [("handler", 401), ("handle", 401), ("matches", 404)])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_overrides_of_a_route_class_are_called(tmp_path: Path, path: str, status: int, method: str) -> None:
    async with running_project(tmp_path, {"probe/router.py": OVERRIDES}) as (_, client):
        assert (await client.request(method, f"{BASE}/{path}")).status_code == status
        assert (await client.request(method, f"{BASE}/{path}", headers={"x-key": "1"})).status_code == 200


async def test_the_overrides_of_a_router_class_are_called(tmp_path: Path) -> None:
    files = {"probe/router.py": f"{OVERRIDES}\nrouter.include_router(own)\n"}
    async with running_project(tmp_path, files) as (_, client):
        assert (await client.get(f"{BASE}/router")).status_code == 401
        assert (await client.get(f"{BASE}/router", headers={"x-key": "1"})).status_code == 200


async def test_a_route_with_its_own_matching_keeps_the_order_of_routes(tmp_path: Path) -> None:
    more = "\nrouter.get('/matches')(other)\n"
    async with running_project(tmp_path, {"probe/router.py": OVERRIDES + more}) as (_, client):
        assert (await client.get(f"{BASE}/matches")).json() == "other"
        assert (await client.get(f"{BASE}/matches", headers={"x-key": "1"})).json() == "in"


HEADS = """
import asyncio
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

router = APIRouter()

@router.get("/both")
async def get_both(request: Request, response: Response) -> str:
    response.headers["x-method"] = request.method
    return "GET"

@router.get("/apart")
async def get_apart() -> str:
    return "GET"

@router.head("/apart")
async def head_apart(response: Response) -> None:
    response.headers["x-own"] = "head"

@router.get("/endless")
async def endless() -> StreamingResponse:
    async def ticks():
        while True:
            yield "data: 1\\n\\n"
    return StreamingResponse(ticks(), media_type="text/event-stream")
"""


async def test_head_is_served_wherever_get_is(tmp_path: Path) -> None:
    async with running_project(tmp_path, {"probe/router.py": HEADS}) as (_, client):
        got, headed = await client.get(f"{BASE}/both"), await client.head(f"{BASE}/both")
        refused = await client.put(f"{BASE}/both")
        document = (await client.get("/openapi.json")).json()
    assert (headed.status_code, headed.content, headed.headers["x-method"]) == (200, b"", "HEAD")
    assert headed.headers["content-length"] == got.headers["content-length"]
    assert refused.headers["allow"] == "GET, HEAD"
    assert set(document["paths"][f"{BASE}/both"]) == {"get"}


async def test_a_head_route_of_its_own_answers_head(tmp_path: Path) -> None:
    async with running_project(tmp_path, {"probe/router.py": HEADS}) as (_, client):
        assert (await client.head(f"{BASE}/apart")).headers["x-own"] == "head"


async def test_a_head_of_an_endless_stream_ends(tmp_path: Path) -> None:
    async with running_project(tmp_path, {"probe/router.py": HEADS}) as (_, client):
        async with asyncio.timeout(10):
            answer = await client.head(f"{BASE}/endless")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
