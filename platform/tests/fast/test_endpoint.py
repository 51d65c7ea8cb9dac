"""Compiled endpoints answer as FastAPI does: each request is made both ways and the answers are compared."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from kernel.application import Application
from kernel.ext.fast.endpoint import Endpoint
from kernel.web.dispatch import Dispatcher
from tests.core.project import MODELS, running_project, write_migration

BASE = "/api/v1/probe"
ROUTER = """
import uuid
from collections.abc import AsyncIterator
from enum import Enum
from typing import Annotated, Any

from fastapi import (
    APIRouter, BackgroundTasks, Body, Cookie, Depends, File, Form, Header, HTTPException, Path, Query, Request,
    Response, Security, UploadFile,
)
from fastapi.responses import PlainTextResponse, RedirectResponse
from fastapi.security import HTTPBearer, OAuth2PasswordBearer, SecurityScopes
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession

from kernel import Session, get_db, with_session
from kernel.database import BaseRepository, PageRequest
from modules.probe.models import Thing

router = APIRouter(responses={418: {"description": "Short and stout"}})
traces: list[str] = []


class Item(BaseModel):
    name: str = Field(min_length=1)
    size: int = 3
    tags: list[str] = []


class Out(BaseModel):
    name: str
    size: int | None = None
    hidden: str = "secret"


class Filters(BaseModel):
    model_config = ConfigDict(extra="forbid")
    q: str | None = None
    limit: int = Field(10, le=20)
    flag: bool = False


class Colours(BaseModel):
    colours: list[str] = []
    plain: int = 1


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    q: str = "none"


class Kind(str, Enum):
    A = "a"
    B = "b"


# Parameters

@router.get("/path/{number}")
async def path_number(number: Annotated[int, Path(ge=1, le=100)]) -> int:
    return number

@router.get("/uuid/{key}/{kind}")
async def path_uuid(key: uuid.UUID, kind: Kind) -> list[str]:
    return [str(key), kind.value]

@router.get("/converted/{number:int}/{rest:path}")
async def path_converted(number: int, rest: str) -> dict[str, Any]:
    return {"number": number, "rest": rest}

@router.get("/query")
async def query(q: str, limit: int = 5, many: Annotated[list[int] | None, Query()] = None) -> dict[str, Any]:
    return {"q": q, "limit": limit, "many": many}

@router.get("/query/model")
async def query_model(filters: Annotated[Filters, Query()]) -> Filters:
    return filters

@router.get("/query/lists")
async def query_lists(colours: Annotated[Colours, Query()]) -> Colours:
    return colours

@router.get("/query/open")
async def query_open(given: Annotated[Open, Query()]) -> dict[str, Any]:
    return given.model_dump()

@router.get("/query/page")
async def query_page(page: Annotated[PageRequest, Query()]) -> PageRequest:
    return page

@router.get("/headers")
async def headers(
    user_agent: Annotated[str | None, Header()] = None,
    x_number: Annotated[int, Header()] = 7,
    x_many: Annotated[list[str] | None, Header()] = None,
    under_score: Annotated[str | None, Header(convert_underscores=False)] = None,
    named: Annotated[str, Header(alias="X-Named")] = "default",
) -> list[Any]:
    return [user_agent, x_number, x_many, under_score, named]

@router.get("/headers/required")
async def headers_required(x_needed: Annotated[int, Header()]) -> int:
    return x_needed

@router.get("/cookies")
async def cookies(session: Annotated[str | None, Cookie()] = None) -> str | None:
    return session

# Bodies

@router.post("/body", status_code=201)
async def body(item: Item) -> Item:
    return item

@router.post("/body/optional")
async def body_optional(item: Item | None = None) -> Item | None:
    return item

@router.post("/body/two")
async def body_two(item: Item, other: Item, number: Annotated[int, Body()] = 1) -> list[Any]:
    return [item, other, number]

@router.post("/body/embedded")
async def body_embedded(item: Annotated[Item, Body(embed=True)]) -> Item:
    return item

@router.post("/body/anything")
async def body_anything(data: Annotated[Any, Body()]) -> Any:
    return data

@router.post("/body/bytes")
async def body_bytes(data: Annotated[bytes, Body()]) -> int:
    return len(data)

@router.post("/form")
async def form(name: Annotated[str, Form()]) -> str:
    return name

@router.post("/file")
async def file(file: UploadFile) -> int:
    return len(await file.read())

# Answers

@router.get("/answer/model", response_model_exclude={"hidden"}, response_model_exclude_none=True)
async def answer_model() -> Out:
    return Out(name="a")

@router.get("/answer/dict")
async def answer_dict():
    return {"a": 1, "b": [1.5, None]}

@router.get("/answer/filtered", response_model=Out)
async def answer_filtered() -> Any:
    return {"name": "a", "more": "dropped"}

@router.get("/answer/wrong")
async def answer_wrong() -> Out:
    return {"size": "no number"}

@router.get("/answer/none", status_code=204)
async def answer_none() -> None:
    return None

@router.get("/answer/nothing")
async def answer_nothing() -> None:
    return None

@router.get("/answer/response")
async def answer_response() -> Response:
    return PlainTextResponse("plain", status_code=202, headers={"x-own": "1"})

@router.get("/answer/class", response_class=PlainTextResponse)
async def answer_class() -> str:
    return "text"

class Accepted(PlainTextResponse):
    def __init__(self, content: Any, status_code: int = 202, **options: Any) -> None:
        super().__init__(content, status_code, **options)

@router.get("/answer/redirect", response_class=RedirectResponse)
async def answer_redirect() -> str:
    return "/elsewhere"

@router.get("/answer/redirect/moved", response_class=RedirectResponse, status_code=301)
async def answer_moved() -> str:
    return "/elsewhere"

@router.get("/answer/redirect/asked", response_class=RedirectResponse)
async def answer_asked(response: Response) -> str:
    response.status_code = 303
    return "/elsewhere"

@router.get("/answer/accepted", response_class=Accepted)
async def answer_accepted(response: Response) -> str:
    response.headers["x-own"] = "1"
    return "later"

@router.get("/answer/headers")
async def answer_headers(response: Response) -> int:
    response.status_code = 203
    response.headers["x-own"] = "yes"
    response.set_cookie("a", "b")
    return 1

@router.get("/answer/emptied")
async def answer_emptied(response: Response) -> Out:
    response.status_code = 204
    return Out(name="never sent")

@router.get("/answer/shared")
async def answer_shared(response: Response, marked: Annotated[int, Depends(lambda response: response)] = 0) -> int:
    return 1

@router.get("/sync")
def sync() -> int:
    return 1

@router.get("/background")
async def background(tasks: BackgroundTasks) -> int:
    tasks.add_task(traces.append, "background")
    return 1

@router.api_route("/several", methods=["GET", "PUT"])
async def several(request: Request) -> str:
    return request.method

# Dependencies

async def once() -> str:
    traces.append("once")
    return "once"

def in_thread(first: Annotated[str, Depends(once)]) -> str:
    traces.append("thread")
    return f"{first} in a thread"

async def again(first: Annotated[str, Depends(once)], number: int = 1) -> str:
    traces.append("again")
    return f"{first} again {number}"

async def marks(response: Response, request: Request) -> None:
    response.headers["x-marked"] = request.url.path

async def managed() -> AsyncIterator[str]:
    traces.append("open")
    try:
        yield "managed"
    except ValueError:
        traces.append("failed")
        raise
    finally:
        traces.append("close")

class Klass:
    def __init__(self, number: int = 4) -> None:
        self.number = number

@router.get("/depends", dependencies=[Depends(marks)])
async def depends(
    a: Annotated[str, Depends(in_thread)], b: Annotated[str, Depends(again)],
    c: Annotated[str, Depends(once, use_cache=False)], d: Annotated[Klass, Depends()],
) -> list[Any]:
    return [a, b, c, d.number]

@router.get("/checked", dependencies=[Depends(again)])
async def checked() -> int:
    traces.append("handler")
    return 1

@router.get("/managed")
async def managed_for_the_function(
    value: Annotated[str, Depends(managed, scope="function")], fail: bool = False
) -> str:
    traces.append("handler")
    if fail:
        raise ValueError(value)
    return value

@router.get("/managed/request")
async def managed_for_the_request(value: Annotated[str, Depends(managed)]) -> str:
    traces.append("handler")
    return value

async def refuses() -> None:
    raise HTTPException(403, "Not you", headers={"x-why": "because"})

@router.get("/refused", dependencies=[Depends(refuses)])
async def refused() -> int:
    return 1

@router.get("/raises")
async def raises() -> int:
    raise RuntimeError("boom")

@router.get("/secured")
async def secured(credentials: Annotated[Any, Depends(HTTPBearer())]) -> str:
    return credentials.credentials

async def scoped(scopes: SecurityScopes) -> list[str]:
    return scopes.scopes

@router.get("/scoped")
async def secured_by_scope(found: Annotated[list[str], Security(scoped, scopes=["read"])]) -> list[str]:
    return found

# Sessions

class ThingOut(BaseModel):
    id: int
    name: str

class Things(BaseRepository[Thing, int]):
    def __init__(self, session):
        super().__init__(Thing, session)

Repository = Annotated[Things, with_session(Things)]

@router.post("/things", status_code=201)
async def make_thing(name: str, things: Repository, session: Session, fail: bool = False) -> ThingOut:
    made = await things.create(into=ThingOut, name=name)
    if fail:
        raise HTTPException(409, "after all not")
    return made

@router.get("/things/open")
async def session_for_the_request(session: Annotated[AsyncSession, Depends(get_db)]) -> int:
    return 1

@router.get("/things")
async def list_things(things: Repository, response: Response) -> list[ThingOut]:
    response.headers["x-count"] = str(await things.count())
    return await things.get_all(into=ThingOut)

# Order: the first that fits wins

@router.get("/order/{anything}")
async def first(anything: str) -> str:
    return f"first {anything}"

@router.get("/order/never")
async def never() -> str:
    return "never"

nested = APIRouter(prefix="/nested", dependencies=[Depends(marks)], tags=["nested"])

@nested.get("/{number}")
async def in_nested(number: int) -> int:
    return number

router.include_router(nested)

@router.get("/traces")
async def take_traces() -> list[str]:
    taken = list(traces)
    traces.clear()
    return taken
"""

JSON = {"content-type": "application/json"}
ITEM = {"name": "a", "size": 1, "tags": ["x"]}
KEY = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"

# Method, path and what else is sent.
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


FILES = {"probe/router.py": ROUTER, "probe/models.py": MODELS}


async def ask(client: httpx2.AsyncClient, method: str, path: str, options: dict[str, Any]) -> dict[str, Any]:
    """The answer, and what the dependencies noted meanwhile."""
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


async def test_every_answer_is_the_one_that_fastapi_gives(tmp_path: Path) -> None:
    ours = await answers(tmp_path / "compiled", compiled=True)
    theirs = await answers(tmp_path / "fastapi", compiled=False)
    different = [
        (request, our, their) for request, our, their in zip(REQUESTS, ours, theirs, strict=True) if our != their
    ]
    assert not different, json.dumps(different[:3], indent=1, default=repr)
    assert len({answer["status"] for answer in ours}) >= 12, "a comparison of errors alone would show little"


def endpoints(app: Application) -> dict[str, Endpoint | None]:
    """The compiled handlers of the module, by the name of their function; None for what is left to FastAPI."""
    layer: Any = app.middleware_stack
    while not isinstance(layer, Dispatcher):
        layer = getattr(layer, "_app", None) or layer.app
    routes = layer._find(f"{BASE}/")
    return {route.name: endpoint for rows in routes._by_method.values() for _, route, endpoint, _ in rows}


async def test_all_is_compiled_but_what_needs_fastapi(tmp_path: Path) -> None:
    async with running_project(write_migration(tmp_path, "probe"), FILES) as (app, client):
        await client.get(BASE)  # which makes the layers
        found = endpoints(app)
    assert {name for name, endpoint in found.items() if endpoint is None} == LEFT_TO_FASTAPI
    assert len(found) > 40


async def test_an_override_holds_from_the_next_request_on_and_no_longer(tmp_path: Path) -> None:
    async with running_project(write_migration(tmp_path, "probe"), FILES) as (app, client):
        once = app.kernel.modules[0].router.routes  # type: ignore[union-attr]  # it has one
        [refused] = [route for route in once if getattr(route, "name", "") == "refused"]
        refuses = refused.dependant.dependencies[0].call  # type: ignore[attr-defined]  # of an APIRoute
        assert (await client.get(f"{BASE}/refused")).status_code == 403
        app.dependency_overrides[refuses] = lambda: None
        assert (await client.get(f"{BASE}/refused")).status_code == 200
        app.dependency_overrides.clear()
        assert (await client.get(f"{BASE}/refused")).status_code == 403


async def test_a_dependency_that_swallows_an_exception_is_told(tmp_path: Path) -> None:
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
async def test_what_a_route_class_overrides_is_run(tmp_path: Path, path: str, status: int, method: str) -> None:
    async with running_project(tmp_path, {"probe/router.py": OVERRIDES}) as (_, client):
        assert (await client.request(method, f"{BASE}/{path}")).status_code == status
        assert (await client.request(method, f"{BASE}/{path}", headers={"x-key": "1"})).status_code == 200


async def test_what_a_router_class_overrides_is_run(tmp_path: Path) -> None:
    files = {"probe/router.py": f"{OVERRIDES}\nrouter.include_router(own)\n"}
    async with running_project(tmp_path, files) as (_, client):
        assert (await client.get(f"{BASE}/router")).status_code == 401
        assert (await client.get(f"{BASE}/router", headers={"x-key": "1"})).status_code == 200


async def test_after_a_route_that_matches_in_its_own_way_the_order_is_kept(tmp_path: Path) -> None:
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
