"""Pages of listed origins may read responses, and caches tell the responses to pages apart."""

from pathlib import Path

from tests.core.project import MANIFEST, running_project

FILES = {
    "shop/module.py": MANIFEST,
    "shop/router.py": """
from fastapi import APIRouter
from kernel import public

router = APIRouter(dependencies=[public])

@router.get("")
async def read() -> int:
    return 1

@router.get("/crash")
async def crash() -> int:
    raise RuntimeError
""",
}
SHOP = "/api/v1/shop"


async def test_cors_allows_listed_origins_only(tmp_path: Path) -> None:
    async with running_project(tmp_path, FILES, {"CORS_ALLOW_ORIGINS": "https://app.example.org"}) as (_, client):
        preflight = {"access-control-request-method": "POST", "origin": "https://app.example.org"}
        allowed = await client.options(SHOP, headers=preflight)
        assert allowed.headers["access-control-allow-origin"] == "https://app.example.org"
        refused = await client.options(SHOP, headers=preflight | {"origin": "https://evil.org"})
        assert "access-control-allow-origin" not in refused.headers


async def test_answers_vary_by_origin_once_with_and_without_one(tmp_path: Path) -> None:
    async with running_project(tmp_path, FILES) as (_, client):
        for headers in ({}, {"origin": "https://app.example.org"}):
            answer = await client.get(SHOP, headers=headers)
            assert [value for name, value in answer.headers.multi_items() if name == "vary"] == ["Origin"]


async def test_a_page_of_another_origin_can_read_an_unexpected_error(tmp_path: Path) -> None:
    async with running_project(tmp_path, FILES) as (_, client):
        answer = await client.get(f"{SHOP}/crash", headers={"origin": "https://app.example.org"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (500, "*")
