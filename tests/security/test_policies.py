"""Every route declares a policy; a route without one is not served (OWASP API5:2023)."""

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, WebSocket
from starlette.responses import JSONResponse
from starlette.staticfiles import StaticFiles

from kernel import Principal, public, requires
from kernel.application import Application, create_app
from kernel.auth.policy import policies, unguarded
from kernel.modules.discovery import DiscoveryError
from kernel.project import load_project
from kernel.settings.sources import Layer, Sources
from kernel.testing import Callers
from tests.core.project import MANIFEST, imported_alone, write_project

# Every route in this list is open to the whole internet.
FOR_EVERYBODY = {"GET /health", "GET /health/live", "GET /health/ready", "GET /health/startup"}


def routes(application: Application) -> Iterator[tuple[str, str, tuple[str, ...] | None]]:
    """Yield method, path and scopes of every route of every module."""
    for module in application.kernel.modules:
        if module.router is not None:
            for one in policies(module.router):
                for method in one.methods:
                    path = ("" if module.router.prefix else module.prefix) + one.path
                    yield method, re.sub(r"{\w+(:\w+)?}", "1", path), one.scopes


async def test_without_a_token_only_public_routes_answer(
    client: httpx2.AsyncClient, application: Application, callers: Callers
) -> None:
    answers = {f"{method} {path}": await client.request(method, path) for method, path, _ in routes(application)}
    assert {route for route, answer in answers.items() if answer.status_code != 401} == FOR_EVERYBODY


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=b"])
@pytest.mark.parametrize("caller", ["a stranger", "eve"])
async def test_the_body_of_an_unauthorised_request_is_not_read(
    client: httpx2.AsyncClient, application: Application, callers: Callers, caller: str, kind: str
) -> None:
    """FastAPI reads the whole body, and stores a form's files on disk, before it calls the dependencies."""
    headers = {"Content-Type": kind} | (callers.headers("eve", "nothing") if caller == "eve" else {})
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read += 1
        yield b"x" * 1000

    asked = [(method, path) for method, path, _ in routes(application) if method in {"POST", "PUT", "PATCH"}]
    assert len(asked) >= 4
    for method, path in asked:
        answer = await client.request(method, path, content=body(), headers=headers)
        assert (answer.status_code, read) == (403 if caller == "eve" else 401, 0), f"{method} {path}"
        assert answer.headers["connection"] == "close"


async def test_each_route_is_403_with_all_scopes_except_its_own(
    client: httpx2.AsyncClient, application: Application, callers: Callers
) -> None:
    """OWASP calls this broken function level authorization."""
    found = list(routes(application))
    every = {scope for _, _, scopes in found for scope in scopes or ()}
    assert "health:read" in every
    for method, path, scopes in found:
        if scopes is not None:
            answer = await client.request(method, path, headers=callers.headers("eve", *every.difference(scopes)))
            assert answer.status_code == 403, f"{method} {path}"
            if method != "HEAD":
                assert answer.json()["detail"] == f"This needs the scope {' '.join(scopes)}."


async def test_changes_need_another_scope_than_reads(application: Application) -> None:
    for method, path, scopes in routes(application):
        if scopes is not None:
            assert any(scope.endswith(":read") for scope in scopes) == (method in {"GET", "HEAD"}), f"{method} {path}"


async def handler() -> None:
    """Serve a route."""


async def socket(websocket: WebSocket) -> None:
    """Serve a socket."""


def router_with(**options: Any) -> APIRouter:
    router = APIRouter(**options)
    router.add_api_route("/r", handler)
    return router


def nested(inner: APIRouter, **options: Any) -> APIRouter:
    outer = APIRouter()
    middle = APIRouter()
    middle.include_router(inner, prefix="/in")
    outer.include_router(middle, prefix="/mid", **options)
    return outer


def with_socket(**options: Any) -> APIRouter:
    router = APIRouter()
    router.add_api_websocket_route("/ws", socket, **options)
    return router


def with_mount() -> APIRouter:
    router = router_with(dependencies=[public])
    router.mount("/files", StaticFiles(directory="."))
    return router


def with_plain_route() -> APIRouter:
    router = router_with(dependencies=[public])
    router.add_route("/plain", lambda _: JSONResponse({}))
    return router


def by_a_dependency_of_a_dependency() -> APIRouter:
    async def whose(caller: Annotated[Principal, requires("a:read")]) -> str:
        return caller.key

    return router_with(dependencies=[Depends(whose)])


async def principal_like() -> None:
    """Return a function that only looks like a policy."""


GUARDED = {
    "the router says": router_with(dependencies=[requires("a:read")]),
    "for everybody": router_with(dependencies=[public]),
    "a router in a router in a router that says": nested(router_with(), dependencies=[requires("a:read")]),
    "a nested router says itself": nested(router_with(dependencies=[public])),
    "a dependency needs the caller": by_a_dependency_of_a_dependency(),
    "a socket says": with_socket(dependencies=[requires("a:read")]),
}
UNGUARDED = {
    "nothing": (router_with(), "GET /r"),
    "nothing, nested": (nested(router_with()), "GET /mid/in/r"),
    "something else": (router_with(dependencies=[Depends(principal_like)]), "GET /r"),
    "a socket": (with_socket(), "/ws"),
    "a mount": (with_mount(), "/files"),
    "a route that is not FastAPI's": (with_plain_route(), "GET HEAD /plain"),
}


@pytest.mark.parametrize("what", GUARDED)
def test_a_policy_counts_in_every_allowed_place(what: str) -> None:
    assert list(unguarded(GUARDED[what])) == []


@pytest.mark.parametrize("what", UNGUARDED)
def test_a_route_without_a_policy_is_reported_in_every_place(what: str) -> None:
    router, route = UNGUARDED[what]
    assert [one.route for one in unguarded(router)] == [route]


OPEN = "from fastapi import APIRouter\n\nrouter = APIRouter()\n\n\n@router.get('/x')\nasync def x() -> None: ...\n"
CLOSED = OPEN.replace("APIRouter()", "APIRouter(dependencies=[public])").replace(
    "APIRouter\n\n", "APIRouter\n\nfrom kernel import public\n\n", 1
)
STARTS = {
    "local": ({"ENVIRONMENT": "local"}, True),
    "local with tokens": ({"ENVIRONMENT": "local", "AUTH_ENABLED": "true"}, False),
    "dev without tokens": ({"ENVIRONMENT": "dev", "AUTH_ENABLED": "false"}, True),
    "prod": ({"ENVIRONMENT": "prod", "AUTH_ISSUER": "https://id", "AUTH_AUDIENCE": "us"}, False),
}


@pytest.mark.parametrize("where", STARTS)
def test_outside_local_a_route_without_a_policy_stops_the_start(tmp_path: Path, where: str) -> None:
    variables, starts = STARTS[where]
    variables = {
        "DATABASE_URL": "postgresql://u:long-and-random@h/d",
        "CORS_ALLOW_ORIGINS": "https://x.example",
    } | variables
    variables |= {"SERVER_ALLOWED_HOSTS": "x.example", "INTERNAL_SECRET": "r" * 40}
    for content, fits in ((OPEN, starts), (CLOSED, True)):
        folder = tmp_path / str(fits)
        write_project(folder, {"shop/router.py": content, "shop/module.py": MANIFEST})
        sources = Sources(folder, variables["ENVIRONMENT"], (Layer("test", variables),))
        with imported_alone():
            project = load_project(sources)
            if fits:
                create_app(*project)
                continue
            with pytest.raises(DiscoveryError, match=r"modules/shop/router\.py: GET /x has no access policy"):
                create_app(*project)
