"""Compress large responses."""

import re

from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipResponder, IdentityResponder
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Level 9 takes three times as long as 5 for a response a few percent smaller (zlib's own figures).
_LEVEL = 5
_PART = re.compile(r"\s*([^\s;]+)\s*(?:;\s*[qQ]\s*=\s*([01](?:\.[0-9]{0,3})?)\s*)?")


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether `Accept-Encoding` allows gzip (RFC 9110, section 12.5.3): by its name, else by `*`, above q=0.

    Malformed parts are ignored.
    """
    parts = [match for one in accept_encoding.split(",") if (match := _PART.fullmatch(one)) is not None]
    weights = {match[1].lower(): float(match[2] or 1) for match in parts}
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0


class Compression:
    """Starlette's gzip for responses of at least `minimum_bytes` and for those of unknown length. Pure ASGI.

    Starlette's own middleware reads the headers of every response; most are smaller than a packet.
    """

    def __init__(self, app: ASGIApp, minimum_bytes: int) -> None:
        self._app = app
        self._minimum_bytes = minimum_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        forward: Send | None = None

        async def send_compressed(message: Message) -> None:
            nonlocal forward
            if forward is None:
                forward = send if self._is_small(message) else self._responder(scope, send).send_with_compression
            await forward(message)

        await self._app(scope, receive, send_compressed)

    def _is_small(self, message: Message) -> bool:
        for name, value in message.get("headers", ()):
            if name == b"content-length":
                return int(value) < self._minimum_bytes
        return False

    def _responder(self, scope: Scope, send: Send) -> IdentityResponder:
        responder = (
            GZipResponder(self._app, self._minimum_bytes, _LEVEL)
            if accepts_gzip(",".join(Headers(scope=scope).getlist("accept-encoding")))
            else IdentityResponder(self._app, self._minimum_bytes)  # Adds `Vary: Accept-Encoding`.
        )
        responder.send = send
        return responder
