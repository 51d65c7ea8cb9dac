"""The one layer around everything: an id, a clock, the access log, the headers of every answer, the last catch."""

import os
import re
import time
from collections.abc import Sequence

import structlog
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernel.web.problems import answer

_access = structlog.get_logger("kernel.access")
_errors = structlog.get_logger("kernel.errors")

_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

# The OWASP REST security cheat sheet's headers for an API that serves no pages.
_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-site"),
)
_DEFAULT_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")


class Shell:
    """Pure ASGI. `allowed_hosts` are names or `*.suffix`; `("*",)` allows all."""

    def __init__(self, app: ASGIApp, *, allowed_hosts: Sequence[str] = ("*",), strict_transport: bool = False) -> None:
        self._app = app
        self._any_host = "*" in allowed_hosts
        self._hosts = frozenset((*allowed_hosts, *_LOOPBACK))
        self._suffixes = tuple(host[1:] for host in allowed_hosts if host.startswith("*."))
        self._headers = (*_SECURITY_HEADERS, _STRICT_TRANSPORT) if strict_transport else _SECURITY_HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_at = time.perf_counter()
        request_id = _request_id(scope)
        scope["request_id"] = request_id
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"] = list(message.get("headers", ()))
                if not any(name == b"content-security-policy" for name, _ in headers):
                    headers.append(_DEFAULT_POLICY)
                headers.extend(self._headers)
                headers.append((b"x-request-id", request_id.encode()))
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                if self._any_host or self._is_allowed(Headers(scope=scope).get("host", "")):
                    await self._app(scope, receive, send_with_headers)
                else:
                    refusal = answer(Request(scope), 400, "This host is not served here: see SERVER_ALLOWED_HOSTS.")
                    await refusal(scope, receive, send_with_headers)
            except Exception as error:
                # Handlers of errors stand further in; what gets here failed after the answer had begun, or in them.
                _errors.error("unexpected error outside the application", exc_info=error)
                if status:
                    raise  # only closing the connection can tell the caller that the answer is not whole
                await answer(Request(scope), 500)(scope, receive, send_with_headers)
            finally:
                _access.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status or 499,  # nginx's code for a caller who left before the answer
                    duration_ms=round((time.perf_counter() - started_at) * 1000, 2),
                    client=(scope.get("client") or ("-",))[0],
                )

    def _is_allowed(self, host: str) -> bool:
        name = re.sub(r":\d+$", "", host).lower()
        return name in self._hosts or name.endswith(self._suffixes)


def _request_id(scope: Scope) -> str:
    """The caller's `X-Request-ID` where it is fit for a log line, else a new one of 128 random bits."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given: str = value.decode("latin-1")
            if _VALID_ID.fullmatch(given):
                return given
    return os.urandom(16).hex()
