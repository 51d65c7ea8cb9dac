"""An upstream to call over TLS, HTTP/1.1 or HTTP/2 as ALPN decides; a handler scripts each answer."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h11
import trustme


@dataclass(frozen=True)
class Received:
    """A request as it arrived: header names in lower case, and the number of its connection, from 1."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int


@dataclass(frozen=True)
class Answer:
    """What to send. A body that is an iterator is sent as it comes."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | AsyncIterator[bytes] = b""


# Gives None to drop the connection without an answer.
Handler = Callable[[Received], Awaitable[Answer | None]]


class HttpsServer:
    """Listens on a free port of 127.0.0.1 and keeps what it received."""

    def __init__(self, handler: Handler, authority: trustme.CA, protocols: list[str]) -> None:
        self.handler = handler
        self.requests: list[Received] = []
        self.protocols: list[str] = []  # one for each connection that was made
        self.dropped_handshakes = 0  # how many of the next connections to drop before TLS
        self.url = ""
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.set_alpn_protocols(protocols)
        authority.issue_cert("127.0.0.1").configure_cert(self._context)
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """How many connections have been made since the start."""
        return len(self.protocols)

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._connections)

    async def answer(self, request: Received) -> Answer | None:
        self.requests.append(request)
        return await self.handler(request)

    @asynccontextmanager
    async def run(self) -> AsyncIterator["HttpsServer"]:
        """Serve until the block ends; then abort what is left."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        self.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if self.dropped_handshakes:
                self.dropped_handshakes -= 1
                return
            await writer.start_tls(self._context)
            protocol = writer.get_extra_info("ssl_object").selected_alpn_protocol() or "http/1.1"
            self.protocols.append(protocol)
            serve = _Http2(self, reader, writer).serve if protocol == "h2" else _Http11(self, reader, writer).serve
            await serve()
        except (OSError, ssl.SSLError, h11.RemoteProtocolError, h2.exceptions.ProtocolError, asyncio.CancelledError):
            pass  # the client went away, or the test is over
        finally:
            writer.transport.abort()
            self._connections.discard(task)


class _Http11:
    def __init__(self, server: HttpsServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server, self._reader, self._writer = server, reader, writer
        self._number = server.connections
        self._state = h11.Connection(h11.SERVER)

    async def serve(self) -> None:
        while True:
            request = await self._next(h11.Request)
            if request is None:
                return
            body = b""
            while (data := await self._next(h11.Data)) is not None:
                body += data.data
            headers = {name.decode(): value.decode() for name, value in request.headers}
            received = Received(request.method.decode(), request.target.decode(), headers, body, self._number)
            answer = await self._until_gone(self._server.answer(received))
            if answer is None:
                return
            await self._until_gone(self._send(answer))
            if self._state.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
                return
            self._state.start_next_cycle()

    async def _next[T](self, wanted: type[T]) -> T | None:
        raise NotImplementedError
