"""Problem details contain the handler's detail, and only a few errors."""

import json
from pathlib import Path
from typing import Any

import pytest

from kernel.web.problems import MOST_ERRORS
from tests.core.project import running_project

BASE = "/api/v1/probe"
ROUTER = """
from datetime import date
from typing import Annotated
from fastapi import APIRouter, BackgroundTasks, HTTPException, Query
from pydantic import BaseModel, ConfigDict, field_validator

router = APIRouter()

class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    numbers: list[int] = []
    named: dict[str, int] = {}
    checked: list["Checked"] = []

class Checked(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def is_good(cls, name: str) -> str:
        raise ValueError("no {name} is good")

loop: list = []
loop.append(loop)
DETAILS = {
    "dict": {"code": "taken", "by": [1, None, {"deep": True}]},
    "list": ["a", 1],
    "int": 7,
    "zero": 0,
    "false": False,
    "date": {"on": date(2030, 1, 2)},
    "model": Checked.model_construct(name="m"),
    "error": ValueError("wrong"),
    "set": {3},
    "keys": {(1, 2): 3},
    "bytes": b"\\xff",
    "nan": {"number": float("nan")},
    "loop": loop,
    "half": "half \\ud800 of it",
    "halves": {"deep": "half \\ud800 of it"},
}

@router.get("/raised/{name}")
async def raised(name: str) -> None:
    raise HTTPException(409, detail=DETAILS[name])

@router.post("/compiled")
async def compiled(body: Strict) -> int:
    return 1

@router.post("/left")
async def left_to_fastapi(body: Strict, tasks: BackgroundTasks) -> int:
    return 1

@router.post("/two")
async def two(one: Strict, other: Strict) -> int:
    return 1

@router.get("/query")
async def query(number: Annotated[list[int], Query()]) -> int:
    return 1
"""
PATHS = ["/compiled", "/left"]
EXPECTED: dict[str, Any] = {
    "dict": {"code": "taken", "by": [1, None, {"deep": True}]},
    "list": ["a", 1],
    "int": 7,
    "zero": 0,
    "false": False,
    "date": {"on": "2030-01-02"},
    "model": {"name": "m"},
    "error": "wrong",
    "set": [3],
    "keys": {"1,2": 3},
    "bytes": "_w==",
    "nan": {"number": None},
    "half": "half ? of it",
    "halves": {"deep": "half ? of it"},
}


@pytest.fixture
def project(tmp_path: Path) -> Any:
    return running_project(tmp_path, {"probe/router.py": ROUTER})


async def test_the_response_has_the_detail_and_status_of_an_http_exception(project: Any) -> None:
    async with project as (_, client):
        answers = {name: await client.get(f"{BASE}/raised/{name}") for name in [*EXPECTED, "loop"]}
    assert {answer.status_code for answer in answers.values()} == {409}
    assert {answer.headers["content-type"] for answer in answers.values()} == {"application/problem+json"}
    assert answers.pop("loop").json()["detail"] == "[[...]]"
    assert {name: answer.json()["detail"] for name, answer in answers.items()} == EXPECTED


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        {f"k{number}": 1 for number in range(90_000)},
        {"numbers": ["x"] * 150_000},
        {"named": {f"k{number}": "x" for number in range(50_000)}},
        {"checked": [{"name": ""}] * 50_000},
    ],
    ids=["unknown fields", "wrong numbers", "wrong values", "refused by a validator"],
)
async def test_a_body_full_of_errors_gets_a_short_answer(project: Any, path: str, body: dict[str, Any]) -> None:
    content = json.dumps(body, separators=(",", ":"))
    assert len(content) < 1 << 20
    async with project as (_, client):
        answer = await client.post(f"{BASE}{path}", content=content, headers={"content-type": "application/json"})
    errors = answer.json()["errors"]
    assert (answer.status_code, len(errors)) == (422, MOST_ERRORS + 1)
    assert errors[-1]["code"] == "too_many_errors"
    assert errors[-1]["message"].endswith(f"errors; the first {MOST_ERRORS} are listed")
    assert len(answer.content) < 20_000


@pytest.mark.parametrize("path", PATHS)
async def test_a_few_errors_are_all_reported(project: Any, path: str) -> None:
    body = {"numbers": ["x"] * MOST_ERRORS}
    async with project as (_, client):
        answer = await client.post(f"{BASE}{path}", json=body)
    assert [one["field"] for one in answer.json()["errors"]] == [f"body.numbers.{n}" for n in range(MOST_ERRORS)]


async def test_an_error_of_a_validator_has_the_same_text_among_few_and_many(project: Any) -> None:
    async with project as (_, client):
        answers = [
            await client.post(f"{BASE}/compiled", json={"checked": [{"name": ""}] * count})
            for count in (1, MOST_ERRORS + 1)
        ]
    few, many = (answer.json()["errors"][0] for answer in answers)
    assert few == many == {"field": "body.checked.0.name", "message": "no {name} is good", "code": "invalid"}


async def test_errors_of_several_values_are_limited_together(project: Any) -> None:
    body = {name: {"numbers": ["x"] * 1000} for name in ("one", "other")}
    async with project as (_, client):
        assert len((await client.post(f"{BASE}/two", json=body)).json()["errors"]) == MOST_ERRORS + 1


async def test_the_errors_of_several_values_are_counted_together(tmp_path: Path) -> None:
    body = {name: {"numbers": ["x"] * 1000} for name in ("one", "other")}
    async with running_project(tmp_path, {"probe/router.py": ROUTER}, extensions=()) as (_, client):
        errors = (await client.post(f"{BASE}/two", json=body)).json()["errors"]
    assert errors[-2]["field"] == "body.one.numbers.99"
    message = f"There are 2,000 errors; the first {MOST_ERRORS} are listed"
    assert errors[-1] == {"field": "body", "message": message, "code": "too_many_errors"}


async def test_errors_of_a_query_are_limited(project: Any) -> None:
    async with project as (_, client):
        answer = await client.get(f"{BASE}/query?{'&'.join(['number=x'] * 1000)}")
    assert len(answer.json()["errors"]) == MOST_ERRORS + 1


@pytest.mark.parametrize("path", PATHS)
async def test_a_long_name_of_the_caller_is_shortened(project: Any, path: str) -> None:
    async with project as (_, client):
        answer = await client.post(f"{BASE}{path}", json={"named": {"x" * 100_000: "no"}})
    [error] = answer.json()["errors"]
    assert error["field"] == f"body.named.{'x' * 100}..."
