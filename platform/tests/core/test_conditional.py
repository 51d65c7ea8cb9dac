"""Conditional requests on the version of a row (RFC 9110, section 13)."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from tests.core.project import running_project

BASE = "/api/v1/things"
ROUTER = """
from fastapi import APIRouter
from kernel import Conditional, ExpectedVersions, public

router = APIRouter(dependencies=[public])

@router.get("")
async def read(etag: Conditional) -> int:
    etag.set(3)
    return 3

@router.put("")
async def put(etag: Conditional) -> int:
    etag.set(3)
    return 3

@router.delete("")
async def delete(expected: ExpectedVersions) -> list[int] | None:
    return None if expected is None else sorted(expected)
"""


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    async with running_project(tmp_path, {"things/router.py": ROUTER}) as (_, client):
        yield client


@pytest.mark.parametrize(
    ("known", "status"),
    [(None, 200), ('"3"', 304), ('W/"3"', 304), ('"1", "3"', 304), ("*", 304), ('"1"', 200), ("3", 200)],
)
async def test_a_read_of_a_known_version_has_no_body(
    client: httpx2.AsyncClient, known: str | None, status: int
) -> None:
    answer = await client.get(BASE, headers={} if known is None else {"If-None-Match": known})
    assert (answer.status_code, answer.headers["etag"]) == (status, '"3"')
    assert answer.content == (b"3" if status == 200 else b"")


@pytest.mark.parametrize(("known", "status"), [("*", 412), ('"3"', 200)])
async def test_a_change_that_requires_a_missing_resource_is_refused(
    client: httpx2.AsyncClient, known: str, status: int
) -> None:
    assert (await client.put(BASE, headers={"If-None-Match": known})).status_code == status


@pytest.mark.parametrize(
    ("sent", "expected"),
    [(None, None), ("*", None), ('"1"', [1]), ('"2", "1"', [1, 2]), ('W/"1"', []), ('"x"', []), ('"1234567890"', [])],
)
async def test_the_versions_of_if_match_are_read(
    client: httpx2.AsyncClient, sent: str | None, expected: list[int] | None
) -> None:
    answer = await client.delete(BASE, headers={} if sent is None else {"If-Match": sent})
    assert answer.json() == expected
