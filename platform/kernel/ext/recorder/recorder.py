"""Record a response as the application gives it, and replay a recorded one."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from fastapi import Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernel.web.context import find_context


@dataclass(frozen=True, slots=True)
class RecordedResponse:
    """A response before the outer layers (CORS, compression, request context) add to it."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    def with_headers(self, *headers: tuple[bytes, bytes]) -> "RecordedResponse":
        """Return the same response with additional headers."""
        return replace(self, headers=(*self.headers, *headers))


class Replay(Exception):
    """Raised by a dependency to send a recorded response instead of running the handler."""

    def __init__(self, response: RecordedResponse) -> None:
        super().__init__(f"a recorded response, {response.status}")
        self.response = response


async def on_replay(_request: Request, replay: Replay) -> Response:
    """Handle Replay: send the recorded response."""
    response = Response(replay.response.body, replay.response.status)
    response.raw_headers = list(replay.response.headers)
    return response


class ResponseRecorder:
    """Records the response of one request, and passes it to `save` before its last part is sent.

    `save` gets None for a response larger than `max_bytes`. If `save` raises, the client gets an error.
    """

    def __init__(
        self, scope: Scope, save: Callable[[RecordedResponse | None], Awaitable[None]], max_bytes: int
    ) -> None:
        self._save = save
        self._max_bytes = max_bytes
        self._status = 0
        self._headers: Sequence[tuple[bytes, bytes]] = ()
        self._parts: list[bytes] = []
        self._size = 0
        context = find_context(scope)
        assert context is not None  # noqa: S101  # dependencies run inside the kernel's outermost layer
        context.values[ResponseRecorder] = self

    async def record(self, message: Message) -> None:
        """Record one part of the response before it is sent."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
        elif message["type"] == "http.response.body":
            part = message.get("body", b"")
            self._size += len(part)
            is_small = self._size <= self._max_bytes
            if is_small:
                self._parts.append(bytes(part))
            if not message.get("more_body", False):
                body = b"".join(self._parts)
                await self._save(RecordedResponse(self._status, self._headers, body) if is_small else None)


class RecordingMiddleware:
    """Lets the recorder that a dependency has set record the response to its request. Pure ASGI."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = find_context(scope)
        if scope["type"] != "http" or context is None:
            await self._app(scope, receive, send)
            return

        async def send_recorded(message: Message) -> None:
            recorder: ResponseRecorder | None = context.values.get(ResponseRecorder)
            if recorder is not None:
                await recorder.record(message)
            await send(message)

        await self._app(scope, receive, send_recorded)
