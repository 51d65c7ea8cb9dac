"""A compressed stream. test_application.py tests which answers are compressed, and for which callers."""

import asyncio
import zlib

from starlette.types import Message, Receive, Scope, Send

from kernel.web.compression import Compression

GZIP = {"type": "http", "method": "GET", "path": "/", "headers": [(b"accept-encoding", b"gzip")]}


async def _no_request() -> Message:
    raise AssertionError("nothing is read")


async def test_a_part_of_a_compressed_stream_arrives_before_the_next_is_made() -> None:
    arrived = asyncio.Event()
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 16)
    received: list[bytes] = []

    async def application(_scope: Scope, _receive: Receive, send: Send) -> None:
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b"[1,", "more_body": True})
        await arrived.wait()
        await send({"type": "http.response.body", "body": b"2]"})

    async def take(message: Message) -> None:
        received.append(decompressor.decompress(message.get("body", b"")))
        if b"".join(received) == b"[1,":
            arrived.set()

    async with asyncio.timeout(5):
        await Compression(application, 1000, 5)(GZIP, _no_request, take)
    assert b"".join(received) == b"[1,2]"
