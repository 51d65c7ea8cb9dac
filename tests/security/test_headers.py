"""The security headers of every kind of response, and CORS for pages of other origins, over a real socket."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.project import running_project
from tests.modules.images.pictures import picture
from tests.security.forms import upload
from tests.security.serving import Answer, Served, request, served

pytestmark = pytest.mark.integration

PAGE = "https://app.example.org"
EVENTS, IMAGES, JSON = "/api/v1/events", "/api/v1/images", {"Content-Type": "application/json"}
EXPECTED = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-site",
}
ANSWERS: dict[str, tuple[int, bytes]] = {
    "200": (200, request("GET", EVENTS)),
    "200 of a probe": (200, request("GET", "/health/live")),
    "200 of a stream": (200, request("GET", f"{IMAGES}/1/content")),
    "200 of a HEAD": (200, request("HEAD", f"{IMAGES}/1/content")),
    "200 of a thumbnail": (200, request("GET", f"{IMAGES}/1/thumbnail")),
    "206": (206, request("GET", f"{IMAGES}/1/content", {"Range": "bytes=0-3"})),
    "304": (304, request("GET", f"{IMAGES}/1", {"If-None-Match": "*"})),
    "304 of bytes": (304, request("GET", f"{IMAGES}/1/content", {"If-None-Match": "*"})),
    "307": (307, request("GET", f"{EVENTS}/")),
    "400": (400, request("GET", EVENTS, host="evil.org")),
    "404 of a row": (404, request("GET", f"{EVENTS}/99")),
    "404 of a path": (404, request("GET", "/nowhere")),
    "405": (405, request("DELETE", EVENTS)),
    "405 of OPTIONS": (405, request("OPTIONS", EVENTS)),
    "412": (412, request("DELETE", f"{IMAGES}/1", {"If-Match": '"99"'})),
    "413": (413, request("POST", EVENTS, JSON, b"x" * (2 << 20))[:3000]),
    "415": (415, request("POST", EVENTS, {"Content-Type": "text/xml"}, b"<x/>")),
    "416": (416, request("GET", f"{IMAGES}/1/content", {"Range": "bytes=99999999-"})),
    "422": (422, request("POST", EVENTS, JSON, b"{}")),
    "the docs": (200, request("GET", "/docs")),
    "a script of the docs": (200, request("GET", "/docs/assets/swagger-ui.css")),
    "the OpenAPI document": (200, request("GET", "/openapi.json")),
    "a call between processes": (401, request("GET", "/internal/contracts")),
}


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("headers")
    settings = {"SERVER_ALLOWED_HOSTS": "api.example.org", "CORS_ALLOW_ORIGINS": PAGE, "CORS_ALLOW_CREDENTIALS": "true"}
    settings |= {"INTERNAL_SECRET": "b7c1d2e3f4a5968778695a4b3c2d1e0f"}
    with served(root, folder, f"sqlite:///{folder / 'data'}", **settings) as started:
        assert started.send(upload("x.png", picture())).statuses == (201,)
        yield started


def from_page(sent: bytes, origin: str = PAGE) -> bytes:
    head, blank, body = sent.partition(b"\r\n\r\n")
    return head + f"\r\nOrigin: {origin}".encode() + blank + body


@pytest.mark.parametrize("name", ANSWERS)
def test_every_response_has_the_security_headers_once(server: Served, name: str) -> None:
    status, sent = ANSWERS[name]
    answer = server.send(sent, cut=status == 413)
    assert answer.statuses == (status,)
    for header, value in EXPECTED.items():
        assert answer.headers(header) == [value]
    [policy] = answer.headers("content-security-policy")
    assert policy.endswith("base-uri 'none'; frame-ancestors 'none'")
    assert policy.startswith("default-src 'self'" if name == "the docs" else "default-src 'none'")
    assert len(answer.headers("x-request-id")) == 1
    assert "Origin" in ",".join(answer.headers("vary"))
    assert not answer.headers("server")
    assert not answer.headers("x-powered-by")
    if status >= 400:
        assert answer.headers("content-type") == ["application/problem+json"]


@pytest.mark.parametrize("name", ANSWERS)
def test_a_page_of_a_listed_origin_can_read_every_response(server: Served, name: str) -> None:
    if name == "400":
        return  # A foreign host is refused before anything else.
    status, sent = ANSWERS[name]
    answer = server.send(from_page(sent), cut=status == 413)
    assert answer.statuses == (status,)
    assert answer.headers("access-control-allow-origin") == [PAGE]
    assert answer.headers("access-control-allow-credentials") == ["true"]


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "https://evil.org",
        "http://app.example.org",
        "https://app.example.org:444",
        "https://app.example.org.evil.org",
        "https://evilapp.example.org",
        "https://app.example.org/",
        "https://APP.example.org",
        "https://app.example.org evil",
        "",
        "*",
        "\u00e4",
    ],
    ids=ascii,
)
def test_a_page_of_another_origin_can_read_nothing(server: Served, origin: str) -> None:
    for _, sent in ANSWERS.values():
        assert not server.send(from_page(sent, origin), cut=True).headers("access-control-allow-origin")


def preflight(server: Served, origin: str, method: str, headers: str = "") -> Answer:
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    return server.send(
        request("OPTIONS", EVENTS, asked | ({"Access-Control-Request-Headers": headers} if headers else {}))
    )


@pytest.mark.parametrize(
    ("origin", "method", "headers", "status"),
    [
        (PAGE, "POST", "", 200),
        (PAGE, "PATCH", "content-type, if-match", 200),
        (PAGE, "DELETE", "authorization", 200),
        (PAGE, "PURGE", "", 400),
        (PAGE, "post", "", 400),
        (PAGE, "POST", "x-evil", 400),
        ("https://evil.org", "POST", "", 400),
        ("null", "POST", "", 400),
    ],
)
def test_a_preflight_lists_the_allowed_methods_and_headers(
    server: Served, origin: str, method: str, headers: str, status: int
) -> None:
    answer = preflight(server, origin, method, headers)
    assert answer.statuses == (status,)
    assert answer.headers("access-control-allow-origin") == ([PAGE] if origin == PAGE else [])
    assert "*" not in answer.headers("access-control-allow-methods")
    for header, value in EXPECTED.items():
        assert answer.headers(header) == [value]


def test_a_request_without_an_origin_gets_no_cors_headers(server: Served) -> None:
    answer = server.send(request("GET", EVENTS))
    assert not answer.headers("access-control-allow-origin")


PROBE = """
from fastapi import APIRouter, HTTPException
from fastapi.responses import StreamingResponse
from kernel import Unavailable, public

router = APIRouter(dependencies=[public])

@router.get("/500")
async def crash() -> None:
    raise RuntimeError

@router.get("/503")
async def busy() -> None:
    raise Unavailable("Later.")

@router.get("/429")
async def limited() -> None:
    raise HTTPException(429)

@router.get("/200")
async def stream() -> StreamingResponse:
    return StreamingResponse("x" * 1000 for _ in range(5))
"""


@pytest.mark.parametrize("environment", ["local", "dev"])
async def test_server_errors_have_the_headers_too(tmp_path: Path, environment: str) -> None:
    variables = {"CORS_ALLOW_ORIGINS": PAGE, "ENVIRONMENT": environment, "AUTH_ENABLED": "false"}
    async with running_project(tmp_path, {"probe/router.py": PROBE}, variables) as (_, client):
        for status in (200, 429, 500, 503):
            answer = await client.get(f"/api/v1/probe/{status}", headers={"Origin": PAGE})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert {name: answer.headers[name] for name in EXPECTED} == EXPECTED
