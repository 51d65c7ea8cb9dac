"""Compression of answers that are worth it."""

from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipResponder, IdentityResponder
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernel.web.replay import kept


class Compression:
    """Starlette's gzip, which is asked only about answers of at least `minimum_bytes`, or of a size not known yet.

    Its middleware looks at the headers of every answer; most are smaller than a packet.
    """

    def __init__(self, app: ASGIApp, minimum_bytes: int, level: int) -> None:
        self._app = app
        self._minimum_bytes = minimum_bytes
        self._level = level

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        forward: Send | None = None

        async def send_compressed(message: Message) -> None:
            nonlocal forward
            if forward is None:
                forward = send if self._is_small(message) else self._responder(scope, send).send_with_compression
                forward = kept(scope, forward)  # as it is before it is compressed: others may not take it so
            await forward(message)

        await self._app(scope, receive, send_compressed)

    def _is_small(self, message: Message) -> bool:
        for name, value in message.get("headers", ()):
            if name == b"content-length":
                return int(value) < self._minimum_bytes
        return False

    def _responder(self, scope: Scope, send: Send) -> IdentityResponder:
        responder = (
            GZipResponder(self._app, self._minimum_bytes, self._level)
            if "gzip" in Headers(scope=scope).get("accept-encoding", "")
            else IdentityResponder(self._app, self._minimum_bytes)  # says that others get it compressed
        )
        responder.send = send
        return responder
