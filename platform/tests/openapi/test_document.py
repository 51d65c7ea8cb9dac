"""The OpenAPI document keeps what a module declares, and adds problem details to it."""

from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from tests.core.project import running_project

BASE = "/api/v1/probe"
ROUTER = """
from typing import Annotated
from fastapi import APIRouter, Header, Query
from pydantic import BaseModel

router = APIRouter()

class ValidationError(BaseModel):
    mine: int

class HTTPValidationError(BaseModel):
    mine: str

class ProblemDetails(BaseModel):
    mine: bool

class FieldProblem(BaseModel):
    mine: float

class Busy(BaseModel):
    queue: int

@router.get("/statuses", responses={
    "default": {"description": "My own default"},
    "4XX": {"description": "Any mistake"},
    499: {},
    409: {"model": Busy, "description": "Busy"},
    404: {"description": "No such thing"},
})
async def statuses(number: int) -> int:
    return number

@router.get("/references", openapi_extra={
    "parameters": [{"$ref": "#/components/parameters/Page"}],
    "responses": {"404": {"$ref": "#/components/responses/NotFound"}},
})
async def references() -> int:
    return 1

@router.get("/mine")
async def mine(number: int) -> ValidationError | HTTPValidationError | ProblemDetails | FieldProblem:
    return ValidationError(mine=1)

@router.get("/conditional")
async def conditional(if_none_match: Annotated[str | None, Header()] = None) -> int:
    return 1
"""


async def document(folder: Path) -> dict[str, Any]:
    async with running_project(folder, {"probe/router.py": ROUTER}) as (_, client):
        answer = await client.get("/openapi.json")
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found


def references(part: Any) -> set[str]:
    if isinstance(part, dict):
        own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
        return own.union(*(references(one) for one in part.values()))
    return set().union(*(references(one) for one in part)) if isinstance(part, list) else set()


async def test_the_document_describes_the_errors_of_a_route_with_a_body(tmp_path: Path) -> None:
    router = """
from fastapi import APIRouter
from pydantic import BaseModel

router = APIRouter()

class Thing(BaseModel):
    name: str

@router.post("")
async def create(thing: Thing) -> int:
    return 1
"""
    async with running_project(tmp_path, {"probe/router.py": router}) as (_, client):
        answer = await client.get("/openapi.json")
    assert "HTTPValidationError" not in answer.text
    responses = answer.json()["paths"][BASE]["post"]["responses"]
    assert {"413", "415", "422", "default"} <= responses.keys()
    for status, response in responses.items():
        if status != "200":
            assert response["content"].keys() == {"application/problem+json"}


async def test_declared_statuses_keep_their_description_and_get_problem_details(tmp_path: Path) -> None:
    responses = (await document(tmp_path))["paths"][f"{BASE}/statuses"]["get"]["responses"]
    problem = "application/problem+json"
    assert {status: one["description"] for status, one in responses.items()} == {
        "200": "Successful Response",
        "default": "My own default",
        "4XX": "Any mistake",
        "499": "Additional Response",
        "409": "Busy",
        "404": "No such thing",
        "422": HTTPStatus(422).phrase,
    }
    assert all((problem in one.get("content", {})) == (status != "200") for status, one in responses.items())
    assert responses["409"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Busy"}


async def test_references_of_a_module_stay(tmp_path: Path) -> None:
    operation = (await document(tmp_path))["paths"][f"{BASE}/references"]["get"]
    assert operation["parameters"] == [{"$ref": "#/components/parameters/Page"}]
    assert operation["responses"]["404"] == {"$ref": "#/components/responses/NotFound"}


@pytest.mark.parametrize("name", ["ValidationError", "HTTPValidationError", "ProblemDetails", "FieldProblem"])
async def test_a_model_of_a_module_keeps_its_name(tmp_path: Path, name: str) -> None:
    found = await document(tmp_path)
    assert set(found["components"]["schemas"][name]["properties"]) == {"mine"}
    ours = found["paths"][f"{BASE}/mine"]["get"]["responses"]["422"]["content"]["application/problem+json"]["schema"]
    definition = found["components"]["schemas"][ours["$ref"].rpartition("/")[2]]
    assert {"title", "status", "errors"} <= set(definition["properties"])


async def test_every_reference_to_a_schema_resolves(tmp_path: Path) -> None:
    found = await document(tmp_path)
    prefix = "#/components/schemas/"
    named = {one.removeprefix(prefix) for one in references(found) if one.startswith(prefix)}
    assert named <= set(found["components"]["schemas"])


async def test_a_get_with_if_none_match_documents_304(tmp_path: Path) -> None:
    responses = (await document(tmp_path))["paths"][f"{BASE}/conditional"]["get"]["responses"]
    assert responses["304"] == {"description": "Not Modified"}
