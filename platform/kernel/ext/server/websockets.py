"""One WebSocket: uvicorn's protocol over the library `websockets`, with the bounds of our HTTP connections."""

import asyncio
import logging
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from kernel.ext.server.protocol import ProcessState, quiet

_log = logging.getLogger("kernel.ext.server")
# uvicorn writes a line for each handshake with its whole query, where browsers put tokens. The access log has one, too.
_uvicorn = logging.getLogger("kernel.ext.server.websockets")
_uvicorn.setLevel(logging.WARNING)


class WebSocketConnection(WebSocketsSansIOProtocol):
    """Counts apart from the requests in work, and is cut when its reader does not take even the end of it."""

    def __init__(self, config: Config, server_state: ProcessState, app_state: dict[str, Any]) -> None:
        super().__init__(config, server_state, app_state)
        self.logger = _uvicorn
        self.tasks = server_state.websockets
        self._state = server_state
        self._closing_since: float | None = None

    def look(self, _passed: float) -> None:
        """Called about once a second: cut a connection that is closed and whose last bytes are not read."""
        if not self.transport.is_closing():
            return
        if self._closing_since is None:
            self._closing_since = self._state.now
        elif self._state.now - self._closing_since > self._state.settings.slow_timeout_seconds:
            _log.info("closed: the end of the WebSocket is not read")
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Feed the protocol. uvicorn leaves a handshake that `websockets` cannot read without an answer."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            _log.info("refused: the WebSocket handshake cannot be read: %s", self.conn.handshake_exc)
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()

    def shutdown(self) -> None:
        """End it with 1012, and do not log as an error that its handler is cancelled if that does not end then."""
        super().shutdown()
        self.logger = quiet

    async def run_asgi(self) -> None:
        """Run the handler in a task that is called as it is in the log."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # we are in one
        task.set_name(f"WEBSOCKET {self.scope['path']}")
        await super().run_asgi()
