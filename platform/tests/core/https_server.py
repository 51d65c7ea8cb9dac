"""A scripted HTTP server on a real socket: HTTP/2 and HTTP/1.1 over TLS, or plain HTTP/1.1."""

import asyncio
import socket
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h11
import trustme

_READ_BYTES = 65_536
_FRAME_BYTES = 16_384
# The client has disconnected. SSLError: during a handshake or a record.
_GONE = (ConnectionError, ssl.SSLError, h11.RemoteProtocolError, h2.exceptions.ProtocolError)


@dataclass(frozen=True)
class Call:
    """A request as it arrived; `at` is of time.monotonic, `attempt` counts those of the same method and path from 1."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    http_version: str
    attempt: int
    at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Reply:
    """A response. With `drip_seconds` its body is sent in single bytes with that pause before each."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    drip_seconds: float = 0


class Drop:
    """Close the connection without an answer."""


class Hang:
    """Keep the connection open and never answer."""


Handler = Callable[[Call], Awaitable[Reply | Drop | Hang]]


def tls_context(authority: trustme.CA, *protocols: str) -> ssl.SSLContext:
    """Return a certificate for 127.0.0.1, with the protocols to offer, the preferred first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(list(protocols))
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


class HttpServer:
    """Answers as `handler` says and records the requests. Open it with `async with`.

    Until `listen()`, which opening calls unless `listening` is false, its port refuses connections.
    """

    def __init__(self, handler: Handler, tls: ssl.SSLContext | None = None, *, listening: bool = True) -> None:
        self.calls: list[Call] = []
        self.connections = 0  # Accepted connections, with or without a successful TLS handshake.
        self.most_at_once = 0
        self._open = 0
        self._handler = handler
        self._tls = tls
        self._listening = listening
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []
        self._socket = socket.socket()

    @property
    def url(self) -> str:
        """Return scheme, host and port."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._socket.getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._socket.setblocking(False)
        self._socket.bind(("127.0.0.1", 0))
        if self._listening:
            self.listen()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all connections. Raises errors of the handler or the server, unless the test failed anyway."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
        self._socket.close()
        if exc is None and self._failures:
            raise self._failures[0]

    def listen(self) -> None:
        """Accept connections from now on."""
        self._socket.listen(1_000)
        self._start(self._accept())

    def _start(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures.append(error)

    async def _accept(self) -> None:
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(self._socket)
            self.connections += 1
            self._start(self._serve(client))

    async def _serve(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        self._open += 1
        self.most_at_once = max(self.most_at_once, self._open)
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, client, ssl=self._tls)
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            try:
                chosen = transport.get_extra_info("ssl_object")
                if chosen is not None and chosen.selected_alpn_protocol() == "h2":
                    await _Http2(self._answer, self._start).serve(reader, writer)
                else:
                    await self._serve_http1(reader, writer)
            finally:
                transport.abort()
        except _GONE:
            pass
        finally:
            client.close()
            self._open -= 1

    async def _answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes, http_version: str
    ) -> Reply | Drop:
        self._attempts[method, path] += 1
        call = Call(method, path, headers, body, http_version, self._attempts[method, path])
        self.calls.append(call)
        todo = await self._handler(call)
        if isinstance(todo, Hang):
            await asyncio.Event().wait()
        assert not isinstance(todo, Hang)
        return todo

    async def _serve_http1(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        while (request := await _read_http1(connection, reader)) is not None:
            head, body = request
            reply = await self._answer(
                head.method.decode(),
                head.target.decode(),
                {name.decode(): value.decode() for name, value in head.headers},
                body,
                f"HTTP/{head.http_version.decode()}",
            )
            if isinstance(reply, Drop):
                return
            headers = [*reply.headers.items(), ("content-length", str(len(reply.body)))]
            writer.write(connection.send(h11.Response(status_code=reply.status, headers=headers)) or b"")
            for part in _parts(reply, head.method.decode()):
                await _pause(reply, writer)
                writer.write(connection.send(h11.Data(data=part)) or b"")
            writer.write(connection.send(h11.EndOfMessage()) or b"")
            await writer.drain()
            if connection.our_state is h11.MUST_CLOSE:
                return
            connection.start_next_cycle()


async def _read_http1(connection: h11.Connection, reader: asyncio.StreamReader) -> tuple[h11.Request, bytes] | None:
    head: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return head, body
        else:
            return None


class _Http2:
    """One HTTP/2 connection; its requests are answered in parallel."""

    def __init__(
        self,
        answer: Callable[[str, str, dict[str, str], bytes, str], Awaitable[Reply | Drop]],
        start: Callable[[Awaitable[None]], asyncio.Task[None]],
    ) -> None:
        self._answer = answer
        self._start = start
        self._connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        self._heads: dict[int, dict[str, str]] = {}
        self._bodies: dict[int, bytes] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._has_room = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connection.initiate_connection()
        self._flush(writer)
        try:
            while data := await reader.read(_READ_BYTES):
                for event in self._connection.receive_data(data):
                    self._take(event, writer)
                self._flush(writer)
        finally:
            for task in self._tasks.values():
                task.cancel()

    def _take(self, event: h2.events.Event, writer: asyncio.StreamWriter) -> None:
        match event:
            case h2.events.RequestReceived(stream_id=int(stream), headers=list(headers)):
                self._heads[stream], self._bodies[stream] = {str(k): str(v) for k, v in headers}, b""
            case h2.events.DataReceived(stream_id=int(stream), data=bytes(data)):
                self._bodies[stream] += data
                self._connection.acknowledge_received_data(event.flow_controlled_length or 0, stream)
            case h2.events.StreamEnded(stream_id=int(stream)):
                self._tasks[stream] = self._start(self._reply(stream, writer))
            case h2.events.StreamReset(stream_id=int(stream)) if stream in self._tasks:
                self._tasks.pop(stream).cancel()
            case h2.events.WindowUpdated():
                self._has_room.set()

    async def _reply(self, stream: int, writer: asyncio.StreamWriter) -> None:
        headers = self._heads.pop(stream)
        method, path = headers[":method"], headers[":path"]
        reply = await self._answer(method, path, headers, self._bodies.pop(stream), "HTTP/2")
        if isinstance(reply, Drop):
            writer.transport.abort()
            return
        try:
            self._connection.send_headers(stream, [(":status", str(reply.status)), *reply.headers.items()])
            self._flush(writer)
            for part in _parts(reply, method):
                await _pause(reply, writer)
                while self._connection.local_flow_control_window(stream) < len(part):
                    self._has_room.clear()
                    await self._has_room.wait()
                self._connection.send_data(stream, part)
                self._flush(writer)
            self._connection.end_stream(stream)
            self._flush(writer)
        except _GONE:
            pass
        finally:
            self._tasks.pop(stream, None)

    def _flush(self, writer: asyncio.StreamWriter) -> None:
        if not writer.is_closing():
            writer.write(self._connection.data_to_send())


def _parts(reply: Reply, method: str) -> list[bytes]:
    if method == "HEAD":
        return []
    size = 1 if reply.drip_seconds else _FRAME_BYTES
    return [reply.body[start : start + size] for start in range(0, len(reply.body), size)]


async def _pause(reply: Reply, writer: asyncio.StreamWriter) -> None:
    if reply.drip_seconds:
        await asyncio.sleep(reply.drip_seconds)
    if writer.is_closing():
        raise ConnectionResetError
    await writer.drain()
