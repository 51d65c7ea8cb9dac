"""Every kind of route has a policy or is not served; only checked routes are served (OWASP API5:2023)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Host, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from kernel import public, requires
from kernel.application import Application, create_app
from kernel.auth.policy import policies, unguarded
from kernel.modules.discovery import DiscoveryError
from kernel.project import load_project
from kernel.settings.sources import Layer, Sources
from kernel.testing.booting import talking_to
from kernel.web.routes import unknown_kinds
from tests.core.project import imported_alone, running_project, write_project

PROD = {
    "ENVIRONMENT": "prod",
    "AUTH_ISSUER": "https://id.example",
    "AUTH_AUDIENCE": "us",
    "DATABASE_URL": "postgresql://u:long-and-random@h/d",
    "CORS_ALLOW_ORIGINS": "https://x.example",
    "SERVER_ALLOWED_HOSTS": "x.example",
    "INTERNAL_SECRET": "r" * 40,
}
WITH_TOKENS = {"AUTH_ENABLED": "true"}
SHOP = "/api/v1/shop"
POLITE = """
from fastapi import APIRouter
from kernel import public

router = APIRouter(dependencies=[public])

@router.get("/x")
async def x() -> int:
    return 1
"""
FRONTEND = """
from fastapi import APIRouter
from kernel import public, requires

inner = APIRouter({inner})
inner.frontend("/files", directory={folder!r})
router = APIRouter()
router.include_router(inner{include})
"""


async def plain(request: Request) -> Response:
    return PlainTextResponse("plain")


class Odd(BaseRoute):
    """A route of a kind that neither FastAPI nor Starlette knows."""


def nested(route: BaseRoute | None = None, **options: Any) -> APIRouter:
    """Return a router in a router in a router, with a folder and with the route."""
    inner, middle, outer = APIRouter(), APIRouter(), APIRouter()
    inner.frontend("/files", directory=Path(__file__).parent)
    if route is not None:
        inner.routes.append(route)
    middle.include_router(inner, prefix="/in")
    outer.include_router(middle, prefix="/mid", **options)
    return outer


ROUTES = {
    "a mount": (Mount("/m", StaticFiles(directory=".")), "/mid/in/m"),
    "a host": (Host("files.example", StaticFiles(directory=".")), "files.example"),
    "a plain route": (Route("/p", plain), "GET HEAD /mid/in/p"),
    "a plain socket": (WebSocketRoute("/w", plain), "/mid/in/w"),
}


@pytest.mark.parametrize("kind", ROUTES)
def test_a_route_of_another_kind_has_no_policy_even_below_a_router_that_has_one(kind: str) -> None:
    route, name = ROUTES[kind]
    assert [one.route for one in unguarded(nested(route, dependencies=[public]))] == [name]


def test_a_folder_without_a_policy_is_reported_in_every_place() -> None:
    assert [one.route for one in unguarded(nested())] == ["GET HEAD /mid/in/files"]


def test_a_folder_has_the_policy_of_the_routers_around_it() -> None:
    [policy] = policies(nested(dependencies=[requires("files:read")]))
    assert (policy.route, policy.scopes) == ("GET HEAD /mid/in/files", ("files:read",))


def test_a_kind_of_route_that_fastapi_omits_is_reported() -> None:
    [fault] = unknown_kinds(nested(Odd()))
    assert "Odd, which FastAPI does not include" in fault


def application(folder: Path, router: str, variables: dict[str, str]) -> Application:
    write_project(folder, {"shop/router.py": router})
    sources = Sources(folder, variables["ENVIRONMENT"], (Layer("test", variables),))
    with imported_alone():
        return create_app(*load_project(sources))


def test_a_folder_of_secrets_without_a_policy_stops_the_start_in_prod(tmp_path: Path) -> None:
    router = FRONTEND.format(folder=str(tmp_path), inner="", include="")
    with pytest.raises(DiscoveryError, match=r"modules/shop/router\.py: GET HEAD /files has no access policy"):
        application(tmp_path, router, PROD)


async def test_a_folder_with_a_policy_requires_a_token(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / ".env.prod").write_text("SECRET=1")
    router = FRONTEND.format(folder=str(folder), inner="", include=', dependencies=[requires("shop:read")]')
    async with running_project(tmp_path, {"shop/router.py": router}, WITH_TOKENS) as (_, client):
        assert (await client.get(f"{SHOP}/files/.env.prod")).status_code == 401


async def test_a_public_folder_is_served(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "index.html").write_text("hello")
    router = FRONTEND.format(folder=str(folder), inner="dependencies=[public]", include="")
    async with running_project(tmp_path, {"shop/router.py": router}, WITH_TOKENS) as (_, client):
        assert (await client.get(f"{SHOP}/files/index.html")).text == "hello"


LATER = {
    "a route": lambda router: router.add_api_route("/later", plain),
    "a plain route": lambda router: router.add_route("/later", plain),
    "a mount": lambda router: router.mount("/later", PlainTextResponse("mounted")),
    "a host": lambda router: router.host("test", PlainTextResponse("host")),
    "a folder": lambda router: router.frontend("/later", directory=Path(__file__).parent),
}


@pytest.mark.parametrize("kind", LATER)
async def test_a_route_that_is_added_to_a_module_after_the_check_is_not_served(tmp_path: Path, kind: str) -> None:
    async with running_project(tmp_path, {"shop/router.py": POLITE}, WITH_TOKENS) as (app, client):
        router = app.kernel.modules[0].router
        LATER[kind](router)
        assert (await client.get(f"{SHOP}/later")).status_code == 404
        assert (await client.get(f"{SHOP}/x")).status_code == 200


@asynccontextmanager
async def started(app: Application) -> AsyncIterator[httpx2.AsyncClient]:
    async with app.router.lifespan_context(app), talking_to(app) as client:
        yield client


@pytest.mark.parametrize("kind", LATER)
async def test_a_route_without_a_policy_beside_the_modules_stops_the_start(tmp_path: Path, kind: str) -> None:
    app = application(tmp_path, POLITE, {"ENVIRONMENT": "local", **WITH_TOKENS})
    LATER[kind](app.router)
    with pytest.raises(DiscoveryError, match=r"outside the modules: .* has no access policy"):
        async with started(app):
            pass


async def test_a_route_with_a_policy_beside_the_modules_is_served(tmp_path: Path) -> None:
    app = application(tmp_path, POLITE, {"ENVIRONMENT": "local", **WITH_TOKENS})
    app.router.add_api_route("/later", plain, dependencies=[public])
    async with started(app) as client:
        assert (await client.get("/later")).text == "plain"
