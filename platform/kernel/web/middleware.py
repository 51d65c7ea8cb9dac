"""The outermost layer: request id, duration, access log, the headers of every response, and unexpected errors."""

import os
import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, reset_contextvars

from kernel.settings import Environment
from kernel.web.context import RequestContext
from kernel.web.problems import answer, shortened

if TYPE_CHECKING:
    from kernel.runtime import Kernel

_access = structlog.get_logger("kernel.access")
_errors = structlog.get_logger("kernel.errors")

AccessLog = Callable[[Scope, int, float, "str | None"], None]
"""Writes the line of a request, given its scope, status, duration in seconds and `traceparent`."""

_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TRACE = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_NO_TRACE: Mapping[str, str] = {}
_HOST = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]+)?")
UNKNOWN_HOST = "The application does not serve this host. Add it to SERVER_ALLOWED_HOSTS."
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

# The OWASP REST security cheat sheet's headers for an API that serves no pages.
_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-site"),
)
STRICTEST_POLICY = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"
_DEFAULT_POLICY = (b"content-security-policy", STRICTEST_POLICY.encode())
# The response to a page of another origin has other headers (CORS).
_VARY_ORIGIN = (b"vary", b"Origin")
_STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")

Headers = list[tuple[bytes, bytes]]
# From the headers of a request: its id, the host, the origin, and its trace as {"traceparent": ...} (W3C Trace
# Context), which is empty without a trace.
_Head = tuple[str, str, bytes | None, Mapping[str, str]]


class RequestContextMiddleware:
    """Gives each request its RequestContext, and completes its response. Pure ASGI."""

    def __init__(self, kernel: "Kernel", app: ASGIApp, access_log: AccessLog) -> None:
        """Send requests with an Origin header (of web pages) to `app` through what extensions put around it."""
        settings = kernel.settings
        self.kernel = kernel
        self.app = app
        self.access_log = access_log
        self.observers = tuple(kernel.builder.observers)
        self._trace_of = kernel.builder.trace_of
        around = kernel.builder.for_web_pages
        self._for_web_pages = app if around is None else around(app)
        allowed_hosts = settings.server.allowed_hosts
        self._any_host = "*" in allowed_hosts
        self._hosts = frozenset((*allowed_hosts, *_LOOPBACK))
        self._suffixes = tuple(host[1:] for host in allowed_hosts if host.startswith("*."))
        sockets = kernel.builder.websockets
        self._websocket = _close if sockets is None else sockets.serve(self)
        over_tls = settings.application.environment in {Environment.UAT, Environment.PROD}
        self._headers = (*_SECURITY_HEADERS, _STRICT_TRANSPORT) if over_tls else _SECURITY_HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await (self._websocket if scope["type"] == "websocket" else self.app)(scope, receive, send)
            return
        started_at = time.perf_counter()
        request_id, host, origin, trace = self.read_head(scope)
        context = RequestContext(self.kernel, request_id=request_id)
        context.attach(scope)
        status = 0
        for observer in self.observers:
            observer.started(scope)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"] = list(message.get("headers", ()))
                self.complete(headers, context)
                if origin is None:
                    headers.append(_VARY_ORIGIN)
                headers.append((b"x-request-id", request_id.encode()))
            await send(message)

        bound = bind_contextvars(request_id=request_id, module=None, **trace)  # the dispatcher sets the module
        try:
            if self._any_host or self.is_allowed(host):
                await (self.app if origin is None else self._for_web_pages)(scope, receive, send_with_headers)
            else:
                refusal = answer(Request(scope), 400, UNKNOWN_HOST)
                await refusal(scope, receive, send_with_headers)
        except Exception as error:
            # The error handlers are further inside: this error came after the response had begun, or from a handler.
            _errors.error("unexpected error outside the application", exc_info=error)
            if status:
                raise  # the server closes the connection, so that the client sees an incomplete response
            await answer(Request(scope), 500)(scope, receive, send_with_headers)
        finally:
            if not status:  # the client has left, or the server has answered 503 because it stops
                status = context.status_without_response
            self._end(scope, status, time.perf_counter() - started_at, trace.get("traceparent"))
            reset_contextvars(**bound)

    def complete(self, headers: Headers, context: RequestContext) -> None:
        """Add the headers that every response gets."""
        for name, value in headers:
            if name == b"content-security-policy":
                break
            if name == b"content-type" and value.startswith(b"text/event-stream"):
                context.is_endless = True  # so that the server ends it when it stops
        else:
            headers.append(_DEFAULT_POLICY)
        headers.extend(self._headers)
        headers.extend(context.response_headers)

    def _end(self, scope: Scope, status: int, seconds: float, traceparent: str | None) -> None:
        for observer in self.observers:
            observer.ended(scope, status, seconds)
        self.access_log(scope, status, seconds, traceparent)

    def is_allowed(self, host: str) -> bool:
        """Return whether the application serves this value of the header Host."""
        if self._any_host:
            return True
        found = _HOST.fullmatch(host.lower())
        return found is not None and (found[1] in self._hosts or found[1].endswith(self._suffixes))

    def read_head(self, scope: Scope) -> _Head:
        """Read the headers. The id is the caller's `X-Request-ID` if it fits a log line, else 128 random bits."""
        request_id, host, origin, trace = "", "", None, _NO_TRACE
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                given = value.decode("latin-1")
                request_id = given if _VALID_ID.fullmatch(given) else ""
            elif name == b"host":
                host = value.decode("latin-1")
            elif name == b"origin":
                origin = value
            elif name == b"traceparent" and _TRACE.fullmatch(value):
                trace = {"traceparent": value.decode()}
        if self._trace_of is not None:
            trace = self._trace_of(scope) or trace
        return request_id or os.urandom(16).hex(), host, origin, trace


async def _close(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Refuse the handshake of a WebSocket, which only an extension can serve: the server answers 403."""
    await send({"type": "websocket.close", "code": 1008})


def log_request(scope: Scope, status: int, seconds: float, traceparent: str | None) -> None:
    """Log the request like any other event. structlog's context adds the request id, module and trace."""
    path, duration_ms = shortened(scope["path"]), round(seconds * 1000, 2)
    _access.info(
        "request", method=scope["method"], path=path, status=status, duration_ms=duration_ms, client=client_of(scope)
    )


def client_of(scope: Scope) -> str:
    """Return the address of the caller, or "-"."""
    client: str = (scope.get("client") or ("-",))[0]
    return client
