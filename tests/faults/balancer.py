"""A minimal load balancer: it sends each request to a process that reports readiness, and sends none twice."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count

from tests.faults.harness import free_port

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_PROBE = b"GET /health/ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
_FAILED = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"


class Balancer:
    """Probes the readiness of each process every `probe_seconds`, and keeps connections to the ready ones."""

    def __init__(self, ports: Sequence[int], probe_seconds: float = 0.15) -> None:
        self.port = free_port()
        self.ready: set[int] = set()
        self._ports = ports
        self._probe_seconds = probe_seconds
        self._idle: dict[int, list[Stream]] = {port: [] for port in ports}
        self._turn = count()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        probes = [asyncio.create_task(self._watch(port)) for port in self._ports]
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        try:
            yield
        finally:
            server.close()
            for task in probes:
                task.cancel()
            await asyncio.wait(probes)
            for port in self._ports:
                self._forget(port)

    async def _watch(self, port: int) -> None:
        while True:
            answer = b""
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(1):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    try:
                        writer.write(_PROBE)
                        answer = await reader.read(-1)
                    finally:
                        writer.close()
            if answer.startswith(b"HTTP/1.1 200"):
                self.ready.add(port)
            else:
                self.ready.discard(port)
                self._forget(port)
            await asyncio.sleep(self._probe_seconds)

    def _forget(self, port: int) -> None:
        for _, writer in self._idle[port]:
            writer.close()
        self._idle[port].clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    request = await message(reader)
                    try:
                        answer = await self._forward(request)
                    except (OSError, asyncio.IncompleteReadError):
                        answer = _FAILED
                    writer.write(answer)
                    await writer.drain()
        finally:
            writer.close()

    async def _forward(self, request: bytes) -> bytes:
        ready = sorted(self.ready)
        if not ready:
            return _FAILED
        port = ready[next(self._turn) % len(ready)]
        reader, writer = (
            self._idle[port].pop() if self._idle[port] else await asyncio.open_connection("127.0.0.1", port)
        )
        writer.write(request)
        try:
            answer = await message(reader)
        except BaseException:
            writer.close()
            raise
        if b"connection: close" in answer or port not in self.ready:
            writer.close()
        else:
            self._idle[port].append((reader, writer))
        return answer.replace(b"connection: close\r\n", b"")  # A header for this connection only.


async def message(reader: asyncio.StreamReader) -> bytes:
    """Read the next request or response of a connection, head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if line)
    return head + await reader.readexactly(int(fields.get(b"content-length", 0)))
