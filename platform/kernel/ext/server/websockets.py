"""One WebSocket: uvicorn's protocol over the library `websockets`, with the limits of our HTTP connections."""

import asyncio
import logging
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from kernel.ext.server.protocol import ProcessState, quiet

_log = logging.getLogger("kernel.ext.server")
# uvicorn logs the whole query of each handshake, where browsers put tokens. The access log has a line without it.
_uvicorn = logging.getLogger("kernel.ext.server.websockets")
_uvicorn.setLevel(logging.WARNING)


class WebSocketConnection(WebSocketsSansIOProtocol):
    """Counts apart from requests, and is closed by force if the client does not read the closing frame."""

    def __init__(self, config: Config, server_state: ProcessState, app_state: dict[str, Any]) -> None:
        super().__init__(config, server_state, app_state)
        self.logger = _uvicorn
        self.tasks = server_state.websockets
        self._state = server_state
        self._closing_since: float | None = None

    def check_pace(self, _passed: float) -> None:
        """Abort a closing connection whose last bytes the client does not read. Called about once a second."""
        if not self.transport.is_closing():
            return
        if self._closing_since is None:
            self._closing_since = self._state.now
        elif self._state.now - self._closing_since > self._state.settings.slow_timeout_seconds:
            _log.info("closed: the client does not read the end of the WebSocket")
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Feed the protocol, and answer a handshake that `websockets` cannot read: uvicorn leaves it unanswered."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            _log.info("refused: the WebSocket handshake is invalid: %s", self.conn.handshake_exc)
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()

    def shutdown(self) -> None:
        """Close with 1012. If the handler has to be cancelled after that, do not log it as an error."""
        super().shutdown()
        self.logger = quiet

    async def run_asgi(self) -> None:
        """Run the handler in a task with the name that the log shows."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a coroutine of uvicorn runs in a task
        task.set_name(f"WEBSOCKET {self.scope['path']}")
        await super().run_asgi()
