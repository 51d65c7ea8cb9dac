"""One connection: uvicorn's HTTP over httptools, with limits for what a client sends and how slowly."""

import asyncio
import json
import logging
import socket
import struct
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from kernel.ext.server.settings import ServerProcessSettings
from kernel.web.context import find_context
from kernel.web.dispatch import PROBES
from kernel.web.middleware import STRICTEST_POLICY

_log = logging.getLogger("kernel.ext.server")
quiet = logging.getLogger("kernel.ext.server.quiet")
quiet.disabled = True

# The part of a message that the parser expects.
_NOTHING, _HEAD, _BODY, _REFUSED = range(4)
# Far more than any browser or client of a service sends.
_MOST_HEADERS = 100
# Requests that wait for an earlier one on the same connection. Only load generators pipeline.
_MOST_PIPELINED = 32
# How much larger than the body the framing of its chunks may be. Chunks of one byte have a factor of five.
_FRAMING_PER_BODY_BYTE = 8
# These are answered even above the limit of requests.
_FREE = frozenset({path.encode() for path in PROBES} | {b"/metrics"})
_RESET = struct.pack("ii", 1, 0)
_CHECKED_HEADERS = frozenset({b"expect", b"host", b"transfer-encoding"})


class ProcessState(ServerState):
    """The state that the connections of a process share."""

    def __init__(self, settings: ServerProcessSettings) -> None:
        super().__init__()
        self.settings = settings
        # The event loop's time, at most one tick old: reading the clock for every request is slower.
        self.now = 0.0
        self.is_stopping = False
        # The tasks of open WebSockets, which do not count as requests.
        self.websockets: set[asyncio.Task[None]] = set()
        # The ASGI application that answers a request above the limit.
        self.overloaded: Any = None


class RefusedRequest(Exception):
    """The request is refused with this status."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Connection(HttpToolsProtocol):
    """Limits the size of a head, the framing of a body, and how slowly a client sends and reads.

    A client has `slow_timeout_seconds` for a head. For a body it has one more second for each `minimum_rate_bytes` that
    it has sent, and to read a response one more second for each `minimum_rate_bytes` that it has read.
    """

    cycle: RequestResponseCycle | None  # type: ignore[assignment]  # uvicorn declares it without None, its first value

    def __init__(
        self,
        config: Config,
        server_state: ProcessState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._state = server_state
        self._most_head_bytes = server_state.settings.max_header_bytes
        self._most_requests = server_state.settings.max_concurrent_requests
        self._served = self.app
        self._reading, self._since = _HEAD, server_state.now
        self._head = self._around = self._body = self._arrived = 0
        self._has_host = False
        # Since when the client has not read all that was written, and how many bytes that were.
        self._unread: tuple[float, int] | None = None

    # Receiving

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._arrived = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self._upgrade()
            else:  # HTTP lets a server ignore the upgrade; what follows would be in another protocol
                self._reading = _REFUSED
                self._close_after_response()
        except httptools.HttpParserError as error:
            cause = error.__context__
            invalid = RefusedRequest(400, "The request is not valid HTTP.")
            self._refuse(cause if isinstance(cause, RefusedRequest) else invalid)
        else:
            if self._reading != _NOTHING or self.cycle is None or self.cycle.response_complete:
                self._bound(len(data))

    def _should_upgrade(self) -> bool:
        """Return whether this becomes a WebSocket: RFC 6455 requires a GET of HTTP/1.1 without a body."""
        is_plain = self.parser.get_method() == b"GET" and self.parser.get_http_version() == "1.1"
        has_body = any(name in {b"content-length", b"transfer-encoding"} for name, _ in self.headers)
        return is_plain and not has_body and super()._should_upgrade()

    def _upgrade(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._refuse(RefusedRequest(400, "A WebSocket cannot begin before the response to the previous request."))
        elif not self.url.isascii():
            self._refuse(RefusedRequest(400, "The address is not valid."))
        elif len(self._state.websockets) >= self._state.settings.max_websockets:
            self._refuse(RefusedRequest(503, "Too many WebSockets are open. Try again shortly."))
        else:
            self._reading = _NOTHING
            self.handle_websocket_upgrade()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._reading != _HEAD:
            self._reading, self._since = _HEAD, self._state.now
        self._has_host = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading != _HEAD:
            return  # a trailer: it changes nothing that the head has decided
        name = name.lower()
        if name in _CHECKED_HEADERS:
            self._check_header(name, value)
        if len(self.headers) >= _MOST_HEADERS:
            raise RefusedRequest(431, f"There are more than {_MOST_HEADERS} headers.")
        self.headers.append((name, value))

    def _check_header(self, name: bytes, value: bytes) -> None:
        if name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        elif name == b"host":
            if self._has_host:
                raise RefusedRequest(400, "There is more than one Host header.")
            self._has_host = True
        elif value.lower() != b"chunked":  # the parser refuses some codings too late, and reads others as chunks
            raise RefusedRequest(400, "The Transfer-Encoding is not supported: send `chunked` or a Content-Length.")

    def on_headers_complete(self) -> None:
        if self._arrived > self._most_head_bytes:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self._most_head_bytes:
                raise self._too_large()
        if not self._has_host and self.parser.get_http_version() == "1.1":
            raise RefusedRequest(400, "There is no Host header.")
        if len(self.pipeline) >= _MOST_PIPELINED:
            raise RefusedRequest(400, "Too many pipelined requests: wait for the responses.")
        self._reading, self._since = _BODY, self._state.now
        self._head = self._around = self._body = 0
        is_full = len(self.tasks) >= self._most_requests and self.url.partition(b"?")[0] not in _FREE
        self.app = self._state.overloaded if is_full else self._served
        super().on_headers_complete()
        if self._state.is_stopping and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._reading = _NOTHING
        super().on_message_complete()

    def _bound(self, arrived: int) -> None:
        """Check the limits after data that did not complete a message."""
        if self._reading == _BODY:
            self._around += arrived
            if self._around - self._body > 2 * self._most_head_bytes + _FRAMING_PER_BODY_BYTE * self._body:
                self._refuse(RefusedRequest(400, "The framing of the chunks is larger than the body."))
        elif self._reading != _REFUSED:
            if self._reading == _NOTHING:  # empty lines before a request: they do not keep a connection open
                self._reading, self._since = _HEAD, self._state.now
            self._head += arrived
            if self._head > self._most_head_bytes:
                self._refuse(self._too_large())

    def _too_large(self) -> RefusedRequest:
        limit = f"at most {self._most_head_bytes:,} bytes."
        if self.headers and len(self.url) <= self._most_head_bytes:
            return RefusedRequest(431, f"The headers are too large: {limit}")
        return RefusedRequest(414, f"The address is too long: {limit}")

    # Slow clients

    def check_pace(self, passed: float) -> None:
        """Close the connection of a slow client. Called about once a second, `passed` seconds after the last call."""
        waiting = self._unread
        left = self.transport.get_write_buffer_size()
        if not left:
            self._unread = None
        elif waiting is None:
            self._unread = (self._state.now, left)
        elif self._is_slow(waiting[0], waiting[1] - left):
            _log.info("closed: the client does not read the response")
            # Otherwise the system keeps the unread bytes for minutes.
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()
            return
        if self._reading not in {_HEAD, _BODY}:
            return
        cycle = self.cycle
        if self.flow.read_paused or (cycle is not None and cycle.waiting_for_100_continue):
            self._since += passed  # the client waits for the application
        elif self._is_slow(self._since, self._body if self._reading == _BODY else 0):
            self._refuse(RefusedRequest(408, "The request came too slowly."))

    def resume_writing(self) -> None:
        self._unread = None
        super().resume_writing()

    def _is_slow(self, since: float, moved: int) -> bool:
        settings = self._state.settings
        return self._state.now - since > settings.slow_timeout_seconds + max(moved, 0) / settings.minimum_rate_bytes

    # Stopping

    def finish(self) -> None:
        """Close the connection after the response in progress; an idle connection stays open during the drain."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def end_stream(self) -> None:
        """End a stream of server-sent events after the drain; its client connects again, to another process.

        The handler gets `http.disconnect`. Other responses in parts end by themselves.
        """
        cycle = self.cycle
        context = None if cycle is None else find_context(cycle.scope)
        if cycle is None or cycle.response_complete or context is None or not context.is_endless:
            return
        if cycle.chunked_encoding:
            self.transport.write(b"0\r\n\r\n")
        cycle.disconnected = True
        cycle.message_event.set()
        self.transport.close()

    def cut(self) -> None:
        """Answer 503 if the response has not begun, and close the connection: the time for the stop is over."""
        self._reading = _BODY
        if self.cycle is not None:
            self.cycle.logger = quiet  # uvicorn would log the cancellation as an error of the application
        self._refuse(RefusedRequest(503, "The server is stopping. Try again."))

    def send_400_response(self, msg: str) -> None:
        self._refuse(RefusedRequest(400, msg))

    def _close_after_response(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    def _refuse(self, refused: RefusedRequest) -> None:
        """Answer with problem details, unless another response is in progress, and close the connection."""
        cycle, is_next = self.cycle, self._reading == _HEAD
        self._reading = _REFUSED
        _log.info("refused: %s", refused.detail)
        can_answer = not self.transport.is_closing()
        if cycle is not None and not cycle.response_complete:
            # The client would take this for the response to an earlier request.
            can_answer = can_answer and not (is_next or cycle.response_started or self.pipeline)
            cycle.disconnected = True
            cycle.message_event.set()
        if can_answer:
            self.transport.write(b"".join(_answer(refused, self.server_state.default_headers)))
        self.pipeline.clear()
        self.transport.close()


def _answer(refused: RefusedRequest, headers: list[tuple[bytes, bytes]]) -> list[bytes]:
    title = HTTPStatus(refused.status).phrase
    body = json.dumps({"type": "about:blank", "title": title, "status": refused.status, "detail": refused.detail})
    retry = b"retry-after: 1\r\n" if refused.status == 503 else b""
    return [
        STATUS_LINE[refused.status],
        *(part for name, value in headers for part in (name, b": ", value, b"\r\n")),
        b"content-type: application/problem+json\r\nx-content-type-options: nosniff\r\nconnection: close\r\n",
        f"content-security-policy: {STRICTEST_POLICY}\r\n".encode(),
        retry,
        b"content-length: %d\r\n\r\n" % len(body),
        body.encode(),
    ]
