"""Answers to errors of a WebSocket's handler, and the limit on the size of a message."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from kernel.web.context import find_context
from kernel.web.problems import ContentTooLarge

# RFC 6455, section 7.4, and the registry of IANA.
_NORMAL, _POLICY, _TOO_LARGE, _INTERNAL, _TRY_AGAIN = 1000, 1008, 1009, 1011, 1013
_MAX_REASON_BYTES = 123


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
            if message["type"] == "websocket.close" and "endpoint" not in scope:
                raise HTTPException(404)  # no route has this path; Starlette would answer 403
            is_open = is_open or message["type"] == "websocket.accept"
            is_closed = is_closed or message["type"] in {"websocket.close", "websocket.http.response.start"}
            await send(message)

        code, reason = _NORMAL, ""
        try:
            await self._app(scope, _bounded(scope, receive), send_noting)
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


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """Limit the size of each message to that of a body, which the dispatcher sets. Raises ContentTooLarge."""
    context = find_context(scope)

    async def receive_bounded() -> Message:
        message = await receive()
        text = message.get("text")
        size = len(message.get("bytes") or b"") if text is None else len(text.encode())
        if context is not None and size > context.max_body_bytes:
            raise ContentTooLarge(f"The message is too large: at most {context.max_body_bytes:,} bytes.")
        return message

    return receive_bounded


def _code(status: int) -> int:
    return {413: _TOO_LARGE, 503: _TRY_AGAIN}.get(status, _POLICY if status < 500 else _INTERNAL)


def _detail(error: Exception) -> str:
    return error.detail if isinstance(error, HTTPException) and isinstance(error.detail, str) else ""


def _cut(reason: str | None) -> str:
    return (reason or "").encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
