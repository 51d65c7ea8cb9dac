import uuid
from collections.abc import AsyncIterator
from enum import Enum
from typing import Annotated, Any

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    Form,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
    Security,
    UploadFile,
)
from fastapi.responses import PlainTextResponse, RedirectResponse
from fastapi.security import HTTPBearer, SecurityScopes
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession

from kernel import Session, get_db, with_session
from kernel.database import BaseRepository
from kernel.ext.paging import PageRequest
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


class Kind(str, Enum):  # noqa: UP042  # what FastAPI makes of it is compared
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
    a: Annotated[str, Depends(in_thread)],
    b: Annotated[str, Depends(again)],
    c: Annotated[str, Depends(once, use_cache=False)],
    d: Annotated[Klass, Depends()],
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
