"""WebSockets: answers to errors of their handlers, and a limit on the size of a message."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from kernel.web.problems import ContentTooLarge

# RFC 6455, section 7.4, and the registry of IANA.
_NORMAL, _POLICY, _TOO_LARGE, _INTERNAL, _TRY_AGAIN = 1000, 1008, 1009, 1011, 1013
_MAX_REASON_BYTES = 123


class Handshake:
    """Wraps the `send` of a WebSocket: records the status of the handshake and completes its headers."""

    def __init__(self, send: Send, request_id: str, complete: Callable[[list[tuple[bytes, bytes]]], None]) -> None:
        self._send = send
        self._request_id = request_id
        self._complete = complete
        # 101 after the WebSocket was accepted; 0 until there is a response.
        self.status = 0
        self.ended_at = 0.0

    async def send(self, message: Message) -> None:
        """Send a message and record the end of the handshake."""
        if not self.status:
            self.ended_at = time.perf_counter()
            self.status = 101 if message["type"] == "websocket.accept" else message.get("status", 403)
            if message["type"] != "websocket.close":
                headers = message["headers"] = list(message.get("headers", ()))
                headers.append((b"x-request-id", self._request_id.encode()))
                if self.status != 101:
                    self._complete(headers)
        await self._send(message)


class SocketErrors:
    """Answers the errors of a WebSocket's handler by the same exception handlers as those of a request. Pure ASGI.

    Before the WebSocket is accepted, the answer is an HTTP response; afterwards it is a close frame with a code and
    the error's detail. The WebSocket is closed when its handler returns. HTTP requests go to `http`.
    """

    def __init__(self, app: ASGIApp, http: ASGIApp, handlers: Mapping[Any, Any]) -> None:
        self._app = app
        self._http = http
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self._http(scope, receive, send)
            return
        is_open = is_closed = False

        async def send_noting(message: Message) -> None:
            nonlocal is_open, is_closed
            is_open = is_open or message["type"] == "websocket.accept"
            is_closed = is_closed or message["type"] in {"websocket.close", "websocket.http.response.start"}
            await send(message)

        code, reason = _NORMAL, ""
        try:
            await self._app(scope, receive, send_noting)
        except WebSocketDisconnect:
            return
        except WebSocketException as error:
            code, reason = error.code, error.reason
        except Exception as error:  # noqa: BLE001  # every error is logged and answered
            response = await self._response(scope, error)
            if not (is_open or is_closed):
                with suppress(OSError):
                    await deny(response, scope, receive, send)
                return
            code, reason = _code(response.status_code), _detail(error)
        if not is_closed:
            with suppress(OSError):  # the client has disconnected
                await send({"type": "websocket.close", "code": code, "reason": _cut(reason)})

    async def _response(self, scope: Scope, error: Exception) -> Response:
        handler = next(self._handlers[kind] for kind in type(error).__mro__ if kind in self._handlers)
        response: Response = await handler(HTTPConnection(scope), error)
        return response


async def deny(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a handshake with an HTTP response, or close it if the server does not support that."""
    if "websocket.http.response" in (scope.get("extensions") or ()):
        await response(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": _code(response.status_code)})


def bounded(receive: Receive, limit: int) -> Receive:
    """Return `receive` with a limit on the size of each message. Raises ContentTooLarge."""

    async def receive_bounded() -> Message:
        message = await receive()
        text = message.get("text")
        size = len(message.get("bytes") or b"") if text is None else len(text.encode())
        if size > limit:
            raise ContentTooLarge(f"The message is too large: at most {limit:,} bytes.")
        return message

    return receive_bounded


def _code(status: int) -> int:
    return {413: _TOO_LARGE, 503: _TRY_AGAIN}.get(status, _POLICY if status < 500 else _INTERNAL)


def _detail(error: Exception) -> str:
    return error.detail if isinstance(error, HTTPException) and isinstance(error.detail, str) else ""


def _cut(reason: str | None) -> str:
    return (reason or "").encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
