"""The cache key contains every input of a response, so that no caller gets a response to another input."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from tests.core.project import running_project

PATH = "/api/v1/things"
ROUTER = """
from typing import Annotated
from fastapi import APIRouter, Cookie, Depends, Header, Request, Response
from pydantic import BaseModel
from kernel import public
from kernel.ext.cache import cached

router = APIRouter()
shared = [public, cached(60, shared=True)]

class Sent(BaseModel):
    x_tenant: str | None = None

async def tenant(x_tenant: Annotated[str | None, Header()] = None) -> str | None:
    return x_tenant

@router.get("/host", dependencies=shared)
async def host(request: Request) -> str:
    return str(request.url_for("host"))

@router.get("/cookie", dependencies=shared)
async def cookie(session: Annotated[str | None, Cookie()] = None) -> str | None:
    return session

@router.get("/header", dependencies=shared)
async def header(x_tenant: Annotated[str | None, Header()] = None) -> str | None:
    return x_tenant

@router.get("/dependency", dependencies=shared)
async def dependency(tenant: Annotated[str | None, Depends(tenant)]) -> str | None:
    return tenant

@router.get("/model", dependencies=shared)
async def model(sent: Annotated[Sent, Header()]) -> str | None:
    return sent.x_tenant

@router.get("/named/{name}", dependencies=shared)
async def named(name: str) -> str:
    return name

@router.get("/own", dependencies=[public, cached(60)])
async def own(x_tenant: Annotated[str | None, Header()] = None) -> str | None:
    return x_tenant

async def vary(request: Request, response: Response, by: str) -> str | None:
    response.headers["Vary"] = by
    return request.headers.get(by)

router.get("/vary/shared", dependencies=shared)(vary)
router.get("/vary/own", dependencies=[public, cached(60)])(vary)
"""


@pytest.fixture(params=["true", "false"])
async def client(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    compiled = {"APPLICATION_COMPILED_ENDPOINTS": request.param}
    async with running_project(tmp_path, {"things/router.py": ROUTER}, compiled) as (_, client):
        yield client


@pytest.mark.parametrize(
    ("path", "header", "mine", "others"),
    [
        ("/host", "Host", "mine.example", "others.example"),
        ("/cookie", "Cookie", "session=mine", "session=others"),
        ("/header", "X-Tenant", "mine", "others"),
        ("/dependency", "X-Tenant", "mine", "others"),
        ("/model", "X-Tenant", "mine", "others"),
        ("/own", "X-Tenant", "mine", "others"),
    ],
)
async def test_a_response_made_from_a_header_is_used_only_for_the_same_value(
    client: httpx2.AsyncClient, path: str, header: str, mine: str, others: str
) -> None:
    first = await client.get(PATH + path, headers={header: mine})
    again = await client.get(PATH + path, headers={header: mine})
    other = await client.get(PATH + path, headers={header: others})
    assert again.text == first.text
    assert "age" in again.headers
    assert "mine" in first.text
    assert "others" in other.text
    assert "age" not in other.headers


async def test_a_cookie_that_no_route_reads_does_not_change_the_key(client: httpx2.AsyncClient) -> None:
    await client.get(f"{PATH}/header", headers={"Cookie": "banner=seen"})
    assert "age" in (await client.get(f"{PATH}/header")).headers


@pytest.mark.parametrize(
    ("of", "header"),
    [
        ("shared", "Cookie"),
        ("shared", "Authorization"),
        ("shared", "Accept-Encoding"),
        ("shared", "Origin"),
        ("own", "Authorization"),
        ("own", "Accept-Encoding"),
        ("own", "Origin"),
    ],
)
async def test_a_response_that_varies_by_a_header_outside_its_key_is_not_cached(
    client: httpx2.AsyncClient, of: str, header: str
) -> None:
    """Otherwise one caller gets the response that was made from the header of another."""
    for value in ("Basic mine", "Basic others", "Basic others"):
        answer = await client.get(f"{PATH}/vary/{of}", params={"by": header}, headers={header: value})
        assert (answer.json(), "age" in answer.headers) == (value, False)


@pytest.mark.parametrize(("of", "header"), [("shared", "Accept-Language"), ("own", "Cookie"), ("own", "ACCEPT")])
async def test_a_response_that_varies_by_a_header_of_its_key_is_cached_for_each_value(
    client: httpx2.AsyncClient, of: str, header: str
) -> None:
    for value, is_kept in (("mine", False), ("others", False), ("others", True)):
        answer = await client.get(f"{PATH}/vary/{of}", params={"by": header}, headers={header: value})
        assert (answer.json(), "age" in answer.headers) == (value, is_kept)


@pytest.mark.parametrize(
    ("first", "second"),
    [("a%0A", "a"), ("a%0D", "a"), ("a%09", "a"), ("a%253F", "a%3F"), ("a%2523b", "a%23b"), ("a%255C", "a%5C")],
)
async def test_different_paths_are_cached_separately(client: httpx2.AsyncClient, first: str, second: str) -> None:
    """Naive: a key from `request.url`, which is normalised, so that some differences disappear."""
    answers = [await client.get(f"{PATH}/named/{name}") for name in (first, second, second)]
    assert answers[0].text != answers[1].text == answers[2].text
    assert ["age" in answer.headers for answer in answers] == [False, False, True]
