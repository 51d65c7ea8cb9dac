"""TLS in front of a real PostgreSQL, as in a provider's proxy, because the PostgreSQL of the tests has none."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import trustme
from sqlalchemy.engine import URL

# The length of the message, and the code that requests TLS (PostgreSQL's documentation, "Message Formats").
_SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")


@dataclass
class TlsProxy:
    """The address, and for each encrypted connection the subject of the client's certificate, if any."""

    port: int = 0
    encrypted: list[str | None] = field(default_factory=list)
    plain: int = 0


@asynccontextmanager
async def tls_proxy(
    server: URL, context: ssl.SSLContext | None, *, refuses_plain: bool = False
) -> AsyncIterator[TlsProxy]:
    """Listen on the loopback interface, and forward to `server`. Without a context it has no TLS."""
    proxy = TlsProxy()
    socket = Path(str(server.query["host"])) / ".s.PGSQL.5432"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):
            first = await reader.readexactly(8)
            if first == _SSL_REQUEST:
                writer.write(b"N" if context is None else b"S")
                await writer.drain()
                if context is not None:
                    await writer.start_tls(context)
                    certificate = writer.get_extra_info("peercert")
                    proxy.encrypted.append(str(certificate["subject"]) if certificate else None)
                    first = b""
                else:
                    first = await reader.readexactly(8)
            if first:
                proxy.plain += 1
                if refuses_plain:
                    return
            there, back = await asyncio.open_unix_connection(str(socket))
            back.write(first)
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(reader, back))
                group.create_task(_pass_on(there, writer))

    async def serve_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    listening = await asyncio.start_server(serve_and_close, "127.0.0.1", 0)
    proxy.port = listening.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listening.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


def server_context(certificate: trustme.LeafCert, clients: trustme.CA | None = None) -> ssl.SSLContext:
    """Return the server's side of TLS; with `clients`, it refuses clients without a certificate of that authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
