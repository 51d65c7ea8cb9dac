"""The outermost layer of a WebSocket: request id, hosts and origins, access log, and unexpected errors."""

import time

import structlog
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, reset_contextvars

from kernel.ext.cors.settings import CorsSettings
from kernel.ext.websockets.errors import deny
from kernel.web.context import RequestContext
from kernel.web.middleware import UNKNOWN_HOST, Headers, RequestContextMiddleware
from kernel.web.problems import answer

_errors = structlog.get_logger("kernel.errors")

_FORBIDDEN_ORIGIN = "Pages of this origin cannot open a WebSocket. Add the origin to CORS_ALLOW_ORIGINS."


class WebSocketMiddleware:
    """Gives each WebSocket its RequestContext, and refuses foreign hosts and origins. Pure ASGI."""

    def __init__(self, outer: RequestContextMiddleware) -> None:
        """Share the kernel, the application, the access log and the headers of `outer`, which serves requests."""
        self._outer = outer
        self._origins = frozenset(outer.kernel.settings.group(CorsSettings).allow_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outer, started_at = self._outer, time.perf_counter()
        request_id, host, origin, trace = outer.read_head(scope)
        context = RequestContext(outer.kernel, request_id=request_id)
        context.attach(scope)
        handshake = _Handshake(send, outer, context)
        bound = bind_contextvars(request_id=request_id, module=None, **trace)
        for observer in outer.observers:
            observer.started(scope)
        try:
            refusal = self._refusal(scope, origin, host.lower())
            if refusal is None:
                await outer.app(scope, receive, handshake.send)
            else:
                await deny(refusal, scope, receive, handshake.send)
        except Exception as error:
            _errors.error("unexpected error outside the application", exc_info=error)
            if handshake.status:
                raise
            await deny(answer(HTTPConnection(scope), 500), scope, receive, handshake.send)
        finally:
            shown, status = {**scope, "method": "WEBSOCKET"}, handshake.status or 499
            for observer in outer.observers:
                observer.ended(shown, status, (handshake.ended_at or time.perf_counter()) - started_at)
            outer.access_log(shown, status, time.perf_counter() - started_at, trace.get("traceparent"))
            reset_contextvars(**bound)

    def _refusal(self, scope: Scope, origin: bytes | None, host: str) -> Response | None:
        """Return the response that refuses a handshake, or None.

        CORS does not cover WebSockets: without this check a page of any origin could open one, with the user's cookies.
        """
        if not self._outer.is_allowed(host):
            return answer(HTTPConnection(scope), 400, UNKNOWN_HOST)
        if origin is None or "*" in self._origins:
            return None
        given = origin.decode("latin-1").lower()
        if given in self._origins or given in {f"http://{host}", f"https://{host}"}:
            return None
        return answer(HTTPConnection(scope), 403, _FORBIDDEN_ORIGIN)


class _Handshake:
    """Wraps the `send` of a WebSocket: records the status of the handshake and completes its headers."""

    def __init__(self, send: Send, outer: RequestContextMiddleware, context: RequestContext) -> None:
        self._send = send
        self._outer = outer
        self._context = context
        # 101 after the WebSocket was accepted; 0 until there is a response.
        self.status = 0
        self.ended_at = 0.0

    async def send(self, message: Message) -> None:
        """Send a message and record the end of the handshake."""
        if not self.status:
            self.ended_at = time.perf_counter()
            self.status = 101 if message["type"] == "websocket.accept" else message.get("status", 403)
            if message["type"] != "websocket.close":
                headers: Headers = list(message.get("headers", ()))
                message["headers"] = headers
                headers.append((b"x-request-id", self._context.request_id.encode()))
                if self.status != 101:
                    self._outer.complete(headers, self._context)
        await self._send(message)
