"""Without the extension that serves WebSockets, their routes stop the start and a handshake is refused."""

import asyncio
from pathlib import Path

import pytest
from fastapi import WebSocket
from starlette.types import Message

from kernel.application import create_app
from kernel.modules.discovery import DiscoveryError
from kernel.testing import settings_for
from tests.core.project import imported_alone, write_project

TALK = """
from fastapi import APIRouter, WebSocket
from kernel import public

inner = APIRouter(dependencies=[public])

@inner.websocket("/live")
async def live(websocket: WebSocket) -> None:
    await websocket.accept()

router = APIRouter()
router.include_router(inner)
"""
REMEDY = "/live is a WebSocket route, and the extension that serves WebSockets is not in use: install `websockets`"


def test_a_websocket_route_of_a_module_stops_the_start(tmp_path: Path) -> None:
    with imported_alone():
        settings = settings_for(write_project(tmp_path, {"talk/router.py": TALK}), {})
        with pytest.raises(DiscoveryError, match=f"modules/talk/router.py: {REMEDY}"):
            create_app(settings, extensions=())


async def test_a_websocket_route_that_is_added_to_the_application_stops_the_start(tmp_path: Path) -> None:
    app = create_app(settings_for(write_project(tmp_path, {}), {"AUTH_ENABLED": "false"}), (), ())

    @app.websocket("/live")
    async def live(websocket: WebSocket) -> None: ...

    with pytest.raises(DiscoveryError, match=f"outside the modules: {REMEDY}"):
        async with app.router.lifespan_context(app):
            pass


async def test_a_handshake_is_refused(tmp_path: Path) -> None:
    app = create_app(settings_for(write_project(tmp_path, {}), {}), (), ())
    received: asyncio.Queue[Message] = asyncio.Queue()
    received.put_nowait({"type": "websocket.connect"})
    sent: asyncio.Queue[Message] = asyncio.Queue()
    await app({"type": "websocket", "path": "/", "headers": []}, received.get, sent.put)
    assert sent.get_nowait() == {"type": "websocket.close", "code": 1008}
    assert sent.empty()
