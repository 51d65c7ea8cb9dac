"""WebSockets of a real process: policies, hosts, origins, limits, metrics, and how they end."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from kernel.ext.local_tokens.key import sign
from tests.faults.harness import until_serving
from tests.faults.served import Served, project

pytestmark = pytest.mark.integration

FILES = {
    "talk/router.py": """
from typing import Annotated
from fastapi import APIRouter, HTTPException, WebSocket
from kernel import Principal, Unavailable, public, requires
from kernel.ext.rate_limit import limited
from kernel.modules.manifest import module_context
import asyncio

router = APIRouter()

@router.websocket("/echo", dependencies=[public])
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:
        await websocket.send_text(await websocket.receive_text())

@router.websocket("/module", dependencies=[public])
async def module(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(module_context(websocket).name)

@router.websocket("/mine")
async def mine(websocket: WebSocket, caller: Annotated[Principal, requires("talk:read")]) -> None:
    await websocket.accept()
    await websocket.send_text(caller.subject)

@router.websocket("/number/{number}", dependencies=[public])
async def number(websocket: WebSocket, number: int) -> None:
    await websocket.accept()

@router.websocket("/early/{status}", dependencies=[public])
async def early(websocket: WebSocket, status: int) -> None:
    raise HTTPException(status, "Not now.")

@router.websocket("/late/{kind}", dependencies=[public])
async def late(websocket: WebSocket, kind: str) -> None:
    await websocket.accept()
    if kind == "busy":
        raise Unavailable("Try later.")
    raise HTTPException(409, "Somebody else was first.") if kind == "conflict" else RuntimeError("boom")

@router.websocket("/limited", dependencies=[public, limited("1/hour")])
async def seldom(websocket: WebSocket) -> None:
    await websocket.accept()

@router.websocket("/silent", dependencies=[public])
async def silent(websocket: WebSocket) -> None:
    return None

@router.websocket("/stubborn", dependencies=[public])
async def stubborn(websocket: WebSocket) -> None:
    await websocket.accept()
    await asyncio.sleep(60)
""",
    "talk/settings.py": """
from kernel import ModuleSettings

class TalkSettings(ModuleSettings):
    max_body_bytes: int = 1000
""",
}
TALK = "/api/v1/talk"
HOST, PAGE = "api.example.org", "https://app.example.org"
SETTINGS = {
    "ENABLED_MODULES": "talk,health",
    "AUTH_ENABLED": "true",
    "SERVER_ALLOWED_HOSTS": HOST,
    "CORS_ALLOW_ORIGINS": PAGE,
    "SERVER_MAX_WEBSOCKETS": "2",
    "SERVER_MAX_CONCURRENT_REQUESTS": "2",
    "RATE_LIMIT_CALLER_SHARE_PERCENT": "100",
    "SERVER_GRACEFUL_SHUTDOWN_TIMEOUT_SECONDS": "5",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("talk")
    here = project(folder, f"sqlite:///{folder / 'data'}", FILES, **SETTINGS)
    with here.process():
        asyncio.run(until_serving(here.port))
        yield here


def connecting(here: Served, path: str, **headers: str) -> connect:
    """Connect to a WebSocket of the module `talk`, to use with `async with`; `origin` is the `Origin`."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return connect(f"ws://127.0.0.1:{here.port}{path}", additional_headers=sent, proxy=None)


async def refused(here: Served, path: str, **headers: str) -> dict[str, Any]:
    """Return the problem details with which a handshake is refused."""
    with pytest.raises(InvalidStatus) as caught:
        await connecting(here, path, **headers)
    answer = caught.value.response
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src" in answer.headers["content-security-policy"]
    problem: dict[str, Any] = json.loads(answer.body)
    assert answer.headers["x-request-id"] == problem["request_id"]
    assert problem["status"] == answer.status_code
    return problem


async def asked(here: Served, path: str, more: str = "", host: str = HOST) -> bytes:
    """Return everything that the server sends after a handshake, up to the end of the connection."""
    sent = (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{more}"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    try:
        writer.write(sent.encode("latin-1"))
        async with asyncio.timeout(20):
            return await reader.read(-1)
    finally:
        writer.close()
        await writer.wait_closed()


async def closed(socket: ClientConnection) -> tuple[int, str]:
    """Return the code and the reason with which the server closes."""
    with pytest.raises(ConnectionClosed) as caught:
        await socket.recv()
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


def bearer(here: Served, *scopes: str) -> str:
    return f"Bearer {sign(here.root / 'data' / 'local-key.pem', 'alice', scopes, (), 600)}"


async def scraped(here: Served) -> str:
    async with httpx2.AsyncClient() as client:
        return (await client.get(f"{here.url}/metrics")).text


async def test_a_websocket_echoes(served: Served) -> None:
    async with connecting(served, f"{TALK}/echo") as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"
        assert socket.response is not None
        assert len(socket.response.headers["x-request-id"]) == 32


async def test_a_handler_uses_its_module_and_its_return_closes_normally(served: Served) -> None:
    async with connecting(served, f"{TALK}/module") as socket:
        assert await socket.recv() == "talk"
        assert await closed(socket) == (1000, "")


async def test_a_policy_applies_to_a_websocket(served: Served) -> None:
    assert (await refused(served, f"{TALK}/mine"))["status"] == 401
    assert (await refused(served, f"{TALK}/mine", authorization=bearer(served, "other")))["status"] == 403
    async with connecting(served, f"{TALK}/mine", authorization=bearer(served, "talk:read")) as socket:
        assert await socket.recv() == "alice"


async def test_a_websocket_of_a_foreign_host_is_refused(served: Served) -> None:
    answer = await asked(served, f"{TALK}/echo", host="evil.example")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"SERVER_ALLOWED_HOSTS" in answer


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://app.example.org.evil.example"])
async def test_a_page_of_another_origin_may_not_connect(served: Served, origin: str) -> None:
    problem = await refused(served, f"{TALK}/echo", origin=origin)
    assert (problem["status"], "CORS_ALLOW_ORIGINS" in problem["detail"]) == (403, True)


@pytest.mark.parametrize("origin", [PAGE, "http://127.0.0.1:{port}"])
async def test_a_page_of_an_allowed_origin_or_our_own_host_may_connect(served: Served, origin: str) -> None:
    async with connecting(served, f"{TALK}/echo", origin=origin.format(port=served.port)) as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/api/v1/nowhere", 404), (f"{TALK}/nowhere", 404), ("/health/live", 404), (f"{TALK}/number/x", 422)],
)
async def test_a_handshake_without_a_handler_gets_problem_details(served: Served, path: str, status: int) -> None:
    assert (await refused(served, path))["status"] == status


@pytest.mark.parametrize("status", [409, 503])
async def test_an_error_before_accept_is_an_http_response(served: Served, status: int) -> None:
    problem = await refused(served, f"{TALK}/early/{status}")
    assert (problem["status"], problem["detail"]) == (status, "Not now.")


@pytest.mark.parametrize(
    ("kind", "code", "reason"),
    [("conflict", 1008, "Somebody else was first."), ("busy", 1013, "Try later."), ("bug", 1011, "")],
)
async def test_an_error_after_accept_closes_with_its_code(served: Served, kind: str, code: int, reason: str) -> None:
    async with connecting(served, f"{TALK}/late/{kind}") as socket:
        assert await closed(socket) == (code, reason)


async def test_a_rate_limit_applies_to_a_websocket(served: Served) -> None:
    async with connecting(served, f"{TALK}/limited") as socket:
        assert await closed(socket) == (1000, "")
    assert (await refused(served, f"{TALK}/limited"))["status"] == 429


async def test_a_handler_that_does_nothing_refuses(served: Served) -> None:
    with pytest.raises(InvalidStatus) as caught:
        await connecting(served, f"{TALK}/silent")
    assert caught.value.response.status_code == 403


async def test_a_message_is_limited_like_a_body(served: Served) -> None:
    async with connecting(served, f"{TALK}/echo") as socket:
        await socket.send("x" * 1000)
        assert len(await socket.recv()) == 1000
        await socket.send("x" * 1001)
        assert await closed(socket) == (1009, "The message is too large: at most 1,000 bytes.")


async def test_open_websockets_have_a_limit_of_their_own(served: Served) -> None:
    async with connecting(served, f"{TALK}/echo"), connecting(served, f"{TALK}/echo"):
        with pytest.raises(InvalidStatus) as caught:
            await connecting(served, f"{TALK}/echo")
        assert caught.value.response.status_code == 503
        async with httpx2.AsyncClient() as client:  # At most two requests may be in progress at a time.
            assert (await client.get(f"{served.url}/health")).status_code in {401, 200}


async def test_a_caller_has_a_share_of_the_open_websockets(tmp_path: Path) -> None:
    shares = {"SERVER_MAX_WEBSOCKETS": "4", "RATE_LIMIT_CALLER_SHARE_PERCENT": "50"}
    here = project(tmp_path, f"sqlite:///{tmp_path / 'data'}", FILES, **SETTINGS | shares)
    first, second = {"x_forwarded_for": "192.0.2.1"}, {"x_forwarded_for": "192.0.2.2"}
    with here.process():
        await until_serving(here.port)
        async with connecting(here, f"{TALK}/echo", **first), connecting(here, f"{TALK}/echo", **first):
            problem = await refused(here, f"{TALK}/echo", **first)
            assert (problem["status"], problem["detail"]) == (429, "You have 2 WebSockets open. Close one of them.")
            async with connecting(here, f"{TALK}/echo", **second) as socket:
                await socket.send("hello")
                assert await socket.recv() == "hello"
        async with connecting(here, f"{TALK}/module", **first) as socket:
            assert await socket.recv() == "talk", "a closed WebSocket frees its place"


async def test_websockets_are_counted_and_logged(served: Served) -> None:
    async with connecting(served, f"{TALK}/module") as socket:
        await closed(socket) if await socket.recv() == "" else None
        await socket.wait_closed()
    async with connecting(served, f"{TALK}/echo"):
        assert "websocket_connections 1.0" in await scraped(served)
    said = await scraped(served)
    assert f'method="WEBSOCKET",module="talk",route="{TALK}/module",status="101"' in said
    assert f'"method": "WEBSOCKET", "path": "{TALK}/module", "status": 101' in served.said


@pytest.mark.parametrize(("header", "status"), [("x" * 10_000, b"400"), ("\xe9", b"409")])
async def test_a_handshake_with_an_odd_header_is_answered(served: Served, header: str, status: bytes) -> None:
    answer = await asked(served, f"{TALK}/early/409", f"X-Odd: {header}\r\n")
    assert answer.split()[1] == status


async def test_a_post_that_asks_for_a_websocket_is_answered_as_a_post(served: Served) -> None:
    async with httpx2.AsyncClient() as client:
        headers = {"Connection": "Upgrade", "Upgrade": "websocket"}
        answer = await client.post(f"{served.url}/health/live", headers=headers, content=b"")
    assert answer.status_code == 405


async def test_a_stop_closes_websockets_at_once_with_a_code(tmp_path: Path) -> None:
    here = project(tmp_path, f"sqlite:///{tmp_path / 'data'}", FILES, **SETTINGS, SERVER_DRAIN_SECONDS="0")
    with here.process() as process:
        await until_serving(here.port)
        async with connecting(here, f"{TALK}/echo") as socket:
            await socket.send("hello")
            assert await socket.recv() == "hello"
            began_at = time.monotonic()
            process.terminate()
            assert (await closed(socket))[0] == 1012
        assert await asyncio.to_thread(process.wait, 20) == 0
    assert time.monotonic() - began_at < 4
    assert "Traceback" not in here.said


async def test_a_handler_that_does_not_end_is_cut_at_the_end_of_a_stop(tmp_path: Path) -> None:
    short = {"SERVER_DRAIN_SECONDS": "0", "SERVER_GRACEFUL_SHUTDOWN_TIMEOUT_SECONDS": "0.3"}
    here = project(tmp_path, f"sqlite:///{tmp_path / 'data'}", FILES, **SETTINGS | short)
    with here.process() as process:
        await until_serving(here.port)
        async with connecting(here, f"{TALK}/stubborn"):
            process.terminate()
            assert await asyncio.to_thread(process.wait, 20) == 0
    assert f"WEBSOCKET {TALK}/stubborn" in here.said
    assert "Traceback" not in here.said
