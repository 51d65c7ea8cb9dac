"""Cached responses: which callers get them, for how long, and what invalidates them."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from kernel.application import Application
from kernel.modules.discovery import DiscoveryError
from kernel.testing import Callers
from tests.core.project import running_project

ROUTER = """
from typing import Annotated
from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from kernel import Conditional, NotFound, Principal, public, requires
from kernel.ext.cache import cached

router = APIRouter()
calls = {}

def count(name):
    calls[name] = calls.get(name, 0) + 1
    return calls[name]

@router.get("/own", dependencies=[requires("things:read"), cached(60)])
async def own(caller: Annotated[Principal, requires()]) -> dict[str, str | int]:
    return {"caller": caller.subject, "call": count("own")}

@router.get("/late", dependencies=[cached(60)])
async def late(caller: Annotated[Principal, requires("things:read")]) -> int:
    return count("late")

@router.get("/shared", dependencies=[public, cached(60, shared=True)])
async def shared(word: str = "") -> dict[str, str | int]:
    return {"word": word, "call": count("shared")}

@router.get("/brief", dependencies=[public, cached(0.2, shared=True)])
async def brief() -> int:
    return count("brief")

@router.get("/tagged", dependencies=[public, cached(60, tags=["all"], shared=True)])
async def tagged(etag: Conditional) -> int:
    etag.set(7)
    return count("tagged")

@router.get("/cookie", dependencies=[public, cached(60, shared=True)])
async def cookie(response: Response) -> int:
    response.set_cookie("a", "b")
    return count("cookie")

@router.get("/private", dependencies=[public, cached(60, shared=True)])
async def private(response: Response) -> int:
    response.headers["Cache-Control"] = "private"
    return count("private")

@router.get("/never", dependencies=[public, cached(60)])
async def never(response: Response) -> int:
    response.headers["Cache-Control"] = "no-store"
    return count("never")

@router.get("/varying", dependencies=[public, cached(60)])
async def varying(response: Response) -> int:
    response.headers["Vary"] = "X-Flavour"
    return count("varying")

@router.get("/missing", dependencies=[public, cached(60)])
async def missing() -> None:
    raise NotFound(f"{count('missing')} times")

@router.get("/large", dependencies=[public, cached(60)])
async def large() -> PlainTextResponse:
    return PlainTextResponse(f"{count('large')}" + "x" * 1_100_000)
"""
PATH = "/api/v1/things"
FILES = {"things/router.py": ROUTER}


@pytest.fixture(params=["true", "false"], ids=["compiled", "by-fastapi"])
async def project(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Application, httpx2.AsyncClient]]:
    async with running_project(tmp_path, FILES, {"APPLICATION_COMPILED_ENDPOINTS": request.param}) as running:
        yield running


@pytest.fixture
def client(project: tuple[Application, httpx2.AsyncClient]) -> httpx2.AsyncClient:
    return project[1]


@pytest.fixture
def callers(project: tuple[Application, httpx2.AsyncClient]) -> Callers:
    return Callers(project[0])


async def body(client: httpx2.AsyncClient, path: str, **headers: str) -> object:
    answer = await client.get(PATH + path, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_cached_response_has_its_age_and_etag(client: httpx2.AsyncClient) -> None:
    first, second = [await client.get(f"{PATH}/shared") for _ in range(2)]
    assert first.json() == second.json() == {"word": "", "call": 1}
    assert "age" not in first.headers
    assert second.headers["age"] == "0"
    assert first.headers["cache-control"] == second.headers["cache-control"] == "public, max-age=60"
    assert second.headers["content-type"] == "application/json"
    known = {"If-None-Match": second.headers["etag"]}
    unchanged = await client.get(f"{PATH}/shared", headers=known)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged.headers["etag"] == second.headers["etag"]
    assert unchanged.headers["cache-control"] == "public, max-age=60"


async def test_an_etag_of_the_handler_is_kept(client: httpx2.AsyncClient) -> None:
    assert await body(client, "/tagged") == 1
    assert (await client.get(f"{PATH}/tagged")).headers.get_list("etag") == ['"7"']
    assert (await client.get(f"{PATH}/tagged", headers={"If-None-Match": 'W/"7"'})).status_code == 304


async def test_other_caches_must_revalidate_a_response_with_tags(client: httpx2.AsyncClient) -> None:
    assert (await client.get(f"{PATH}/tagged")).headers["cache-control"] == "public, no-cache"


async def test_another_query_or_language_is_cached_separately(client: httpx2.AsyncClient) -> None:
    found = [
        await body(client, "/shared?word=a"),
        await body(client, "/shared?word=b"),
        await body(client, "/shared?word=a"),
        await body(client, "/shared?word=a", **{"Accept-Language": "de"}),
    ]
    assert [one["call"] for one in found if isinstance(one, dict)] == [1, 2, 1, 3]


async def test_no_caller_gets_the_cached_response_of_another(client: httpx2.AsyncClient, callers: Callers) -> None:
    """Naive: a key of path and query gives Bob a response that only Alice may see."""
    alice, bob = callers.headers("alice", "things:read"), callers.headers("bob", "things:read")
    assert await body(client, "/own", **alice) == {"caller": "alice", "call": 1}
    assert await body(client, "/own", **bob) == {"caller": "bob", "call": 2}
    assert await body(client, "/own", **alice) == {"caller": "alice", "call": 1}
    assert (await client.get(f"{PATH}/own")).status_code == 401


@pytest.mark.parametrize("path", ["/own", "/late"])
async def test_a_caller_that_has_lost_a_scope_gets_no_cached_response(
    client: httpx2.AsyncClient, callers: Callers, path: str
) -> None:
    """Even if the policy is behind `cached`, and does not run for a cached response."""
    assert (await client.get(PATH + path, headers=callers.headers("alice", "things:read"))).status_code == 200
    assert (await client.get(PATH + path, headers=callers.headers("alice"))).status_code == 403
    assert (await client.get(PATH + path)).status_code == 401
    assert (await client.get(PATH + path, headers={"Authorization": "Bearer bad"})).status_code == 401


async def test_an_expired_response_is_made_again(client: httpx2.AsyncClient) -> None:
    seen = [await body(client, "/brief") for _ in range(2)]
    assert seen == [1, 1]
    while (latest := await body(client, "/brief")) == 1:
        pass
    assert latest == 2


@pytest.mark.parametrize("path", ["/cookie", "/private", "/never", "/varying"])
async def test_a_response_that_forbids_shared_caching_is_not_cached(client: httpx2.AsyncClient, path: str) -> None:
    assert [await body(client, path) for _ in range(2)] == [1, 2]


async def test_errors_and_large_responses_are_not_cached(client: httpx2.AsyncClient) -> None:
    assert [(await client.get(f"{PATH}/missing")).json()["detail"] for _ in range(2)] == ["1 times", "2 times"]
    assert [(await client.get(f"{PATH}/large")).text[0] for _ in range(2)] == ["1", "2"]


async def test_a_cached_response_has_the_cors_headers_of_the_current_origin(client: httpx2.AsyncClient) -> None:
    await client.get(f"{PATH}/shared", headers={"Origin": "https://a.example"})
    again = await client.get(f"{PATH}/shared", headers={"Origin": "https://b.example"})
    assert again.json()["call"] == 1
    assert again.headers.get_list("access-control-allow-origin") == ["*"]
    assert len(again.headers.get_list("x-request-id")) == 1


async def test_a_large_cached_response_is_compressed_only_for_callers_that_accept_it(tmp_path: Path) -> None:
    router = ROUTER.replace("1_100_000", "10_000")
    async with running_project(tmp_path, {"things/router.py": router}) as (_, client):
        for coding in ("gzip", "identity", "gzip"):
            answer = await client.get(f"{PATH}/large", headers={"Accept-Encoding": coding})
            assert answer.text == "1" + "x" * 10_000
            assert answer.headers.get("content-encoding", "identity") == coding


@pytest.mark.parametrize(
    ("route", "said"),
    [
        ('@router.post("", dependencies=[public, cached(1)])', "POST .* is cached, but is not a GET route"),
        ('@router.get("", dependencies=[requires(), cached(1, shared=True)])', "remove `shared=True`"),
        ('@router.get("", dependencies=[public, cached(0)])', "up to 86400 seconds, not for 0"),
        (
            '@router.get("/{a}", dependencies=[public, cached(1, tags=["thing:{id}"])])',
            "uses id, which is not in its path",
        ),
        ('@router.get("", dependencies=[public, cached(1, tags=["thing:{"])])', "Single '{' encountered"),
    ],
)
async def test_a_cache_in_the_wrong_place_stops_the_start(tmp_path: Path, route: str, said: str) -> None:
    router = f"{ROUTER}\n{route}\nasync def wrong() -> None: ...\n"
    with pytest.raises(DiscoveryError, match=re.compile(rf"things/router\.py.*{said}")):
        async with running_project(tmp_path, {"things/router.py": router}):
            pass


async def test_the_cache_keeps_no_more_than_its_limit(tmp_path: Path) -> None:
    async with running_project(tmp_path, FILES, {"STORE_MEMORY_BYTES": "3000"}) as (_, client):
        for word in "abcdefgh":
            await body(client, f"/shared?word={word}")
        assert await body(client, "/shared?word=h") == {"word": "h", "call": 8}
        assert await body(client, "/shared?word=a") == {"word": "a", "call": 9}
