"""WebSockets of an application, driven as a server would drive them: sessions, errors, and which routes are found."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, WebSocket
from sqlalchemy.engine import URL
from starlette.types import Message, Receive, Scope, Send

from kernel.application import Application, create_app
from kernel.testing import settings_for
from tests.core.project import MODELS, imported_alone, running_project, write_migration, write_project
from tests.core.test_sessions import drained

ROUTER = """
from fastapi import APIRouter, WebSocket
from sqlalchemy import select
from kernel import Session, public
from modules.things.models import Thing

router = APIRouter(dependencies=[public])

@router.websocket("/socket")
async def socket(websocket: WebSocket, session: Session) -> None:
    await websocket.accept()
    while True:
        await websocket.receive_text()
        await websocket.send_text(str(len((await session.execute(select(Thing))).all())))

@router.get("/count")
async def count(session: Session) -> int:
    return len((await session.execute(select(Thing))).all())
"""
PLAIN = """
from fastapi import APIRouter
from kernel import public

router = APIRouter(dependencies=[public])

@router.get("")
async def get() -> str:
    return "a request"
"""
NESTED = """
inner = APIRouter()

@inner.websocket("/socket")
async def socket(websocket) -> None: ...

router.include_router(inner)
"""
MOUNTED = """
async def app(scope, receive, send) -> None: ...

router.mount("/mounted", app)
"""
THINGS = "/api/v1/things"


class Socket:
    """One end of a WebSocket of the application, driven as a server would."""

    def __init__(self, app: FastAPI, path: str) -> None:
        self.received: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        scope = {
            "type": "websocket",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "scheme": "ws",
            "headers": [(b"host", b"test")],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
            "subprotocols": [],
            "state": {},
            "extensions": {},
        }
        self.received.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.create_task(app(scope, self.received.get, self.sent.put))

    async def answer(self) -> Message:
        """Return the next message of the application."""
        message: Message = await asyncio.wait_for(self.sent.get(), 10)
        return message

    async def ask(self) -> str:
        """Send a message and return the answer."""
        self.received.put_nowait({"type": "websocket.receive", "text": "?"})
        while (message := await self.answer())["type"] != "websocket.send":
            pass
        return str(message["text"])

    async def close(self) -> None:
        """Disconnect, and wait until the handler has ended."""
        self.received.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await asyncio.wait([self._task], timeout=10)


@pytest.fixture(params=["sqlite", "postgresql"])
async def running(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Application, httpx2.AsyncClient]]:
    """Provide an application with a pool of 3 + 2 connections, and a client."""
    files = {"things/models.py": MODELS, "things/router.py": ROUTER}
    variables = {"DATABASE_POOL_SIZE": "3", "DATABASE_MAX_OVERFLOW": "2", "DATABASE_POOL_TIMEOUT_SECONDS": "2"}
    if request.param == "postgresql":
        make: Callable[[str], URL] = request.getfixturevalue("new_database")
        variables["DATABASE_URL"] = make("sockets").render_as_string(hide_password=False)
    async with running_project(write_migration(tmp_path, "things"), files, variables) as started:
        yield started


async def test_open_websockets_hold_no_connection_between_their_messages(
    running: tuple[Application, httpx2.AsyncClient],
) -> None:
    """12 WebSockets that read stay open with a pool of 3 + 2."""
    app, client = running
    sockets = [Socket(app, f"{THINGS}/socket") for _ in range(12)]
    assert [await socket.ask() for socket in sockets] == ["0"] * 12
    assert await drained(app.kernel.pool.database("things")) == 0
    assert (await client.get(f"{THINGS}/count")).status_code == 200
    for socket in sockets:
        await socket.close()


async def test_a_middleware_of_the_application_sees_websockets(running: tuple[Application, httpx2.AsyncClient]) -> None:
    app, _ = running
    seen = []

    class Noting:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope["type"])
            await self._inner(scope, receive, send)

    app.middleware_stack = None
    app.add_middleware(Noting)
    socket = Socket(app, f"{THINGS}/socket")
    assert await socket.ask() == "0"
    await socket.close()
    assert seen == ["websocket"]


async def test_a_server_without_denial_responses_gets_a_close(running: tuple[Application, httpx2.AsyncClient]) -> None:
    app, _ = running
    assert await Socket(app, "/nowhere").answer() == {"type": "websocket.close", "code": 1008}


@pytest.mark.parametrize(("router", "is_found"), [(PLAIN, False), (PLAIN + NESTED, True), (PLAIN + MOUNTED, True)])
def test_a_server_learns_whether_a_route_may_answer_a_websocket(tmp_path: Path, router: str, is_found: bool) -> None:
    with imported_alone():
        app = create_app(settings_for(write_project(tmp_path, {"talk/router.py": router}), {}))
    sockets = app.kernel.builder.websockets
    assert sockets is not None
    assert sockets.are_routed(app) is is_found


def test_a_route_of_the_application_itself_may_answer(tmp_path: Path) -> None:
    with imported_alone():
        app = create_app(settings_for(write_project(tmp_path, {"talk/router.py": PLAIN}), {}))

    @app.websocket("/added")
    async def added(websocket: WebSocket) -> None: ...

    sockets = app.kernel.builder.websockets
    assert sockets is not None
    assert sockets.are_routed(app)
