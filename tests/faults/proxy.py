"""A TCP proxy that fails on demand, between the process under test and a database, an upstream or a client."""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

Mode = Literal["pass", "refuse", "swallow", "reset", "drip", "cut"]
Address = tuple[str, int] | str
"""Host and port, or the path of a Unix socket."""
Watch = Callable[[bytes], bool]

_DRIP_SECONDS = 0.05
_NOW = struct.pack("ii", 1, 0)


class FaultProxy:
    """Forwards to `target` what arrives at `port` of the loopback interface. `set` changes how, for all connections.

    pass: forward everything, both ways. refuse: close the port. swallow: accept connections and forward nothing more,
    at any point of a transfer. reset: end a connection with RST as soon as it opens or sends data. drip: forward one
    byte of the responses at a time. cut: end the responses after `cut_after` bytes.

    `watch` gets each piece that a client sends, before it is forwarded; True resets that connection.
    """

    def __init__(self, target: Address, *, cut_after: int = 0, watch: Watch | None = None) -> None:
        self.port = 0
        # The numbers of connections that were made, of pieces that were swallowed, and of connections that were reset
        # or cut.
        self.connections = self.swallowed = self.broken = 0
        self.cut_after, self.watch = cut_after, watch
        self._target = target
        self._mode: Mode = "pass"
        self._passes = asyncio.Event()
        self._passes.set()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        await self._stop_listening()
        self.reset_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def set(self, mode: Mode) -> None:
        """Fail in this way from now on. Pass resets connections that were swallowed, because their bytes are lost."""
        before, self._mode = self._mode, mode
        if before == "swallow":
            self.reset_all()
        if mode in {"refuse", "reset"}:
            self.reset_all()
        if mode == "refuse":
            await self._stop_listening()
        elif self._server is None:
            await self._listen()

    def reset_all(self) -> None:
        """End every connection with RST."""
        for writer in list(self._open):
            self._reset(writer)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # For the type checker.
        self._tasks.add(task)
        self.connections += 1
        self._open.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            if self._mode == "reset":
                self._reset(writer)
                return
            if self._mode == "swallow":
                await self._swallow(reader)
                return
            if isinstance(self._target, str):
                answers, upstream = await asyncio.open_unix_connection(self._target)
            else:
                answers, upstream = await asyncio.open_connection(*self._target)
            self._open.add(upstream)
            await asyncio.gather(self._forward(reader, upstream, writer), self._answer(answers, writer))
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # Only this class cancels it, at the end.
        finally:
            for one in (writer, upstream):
                if one is not None:
                    self._open.discard(one)
                    one.close()
            self._tasks.discard(task)

    async def _forward(
        self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65_536):
            if self._mode == "swallow":
                self.swallowed += 1
                await self._swallow(reader)
                return
            if self._mode == "reset" or (self.watch is not None and self.watch(data)):
                self._reset(client)
                upstream.close()
                return
            upstream.write(data)
            await upstream.drain()
        with suppress(OSError):
            upstream.write_eof()

    async def _answer(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = 0
        while data := await answers.read(65_536):
            if self._mode == "swallow":
                self.swallowed += 1
                await self._swallow(answers)
                return
            if self._mode == "cut" and sent + len(data) > self.cut_after:
                writer.write(data[: max(0, self.cut_after - sent)])
                await writer.drain()
                self._reset(writer)
                return
            sent += len(data)
            if self._mode == "drip":
                for place in range(len(data)):
                    writer.write(data[place : place + 1])
                    await writer.drain()
                    await asyncio.sleep(_DRIP_SECONDS)
                continue
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _swallow(self, reader: asyncio.StreamReader) -> None:
        while await reader.read(65_536):
            self.swallowed += 1

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        self.broken += 1
        connection = writer.get_extra_info("socket")
        if connection is not None and connection.fileno() != -1:
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NOW)
        writer.transport.abort()
        self._open.discard(writer)
