"""More than a server should accept: endless heads, endless framing, ten thousand connections."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path

from tests.faults.harness import Result, until_serving
from tests.faults.served import Served, open_files, project, resident_mib

_START = b"POST /api/v1/work/bytes HTTP/1.1\r\nHost: a\r\n"
_CHUNKED = _START + b"Transfer-Encoding: chunked\r\n\r\n"
_MIB = 1 << 20


async def endless(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """200 MB in place of a few hundred bytes. (Naive: httptools kept all of them, and answered 200.)"""
    size = (50 if quick else 200) * 1_000_000
    here = project(folder, database_url)
    ways = {
        "one header": (_START + b"X-Large: ", b"x" * 65_536),
        "very many headers": (_START, b"X-Many: x\r\n" * 6_000),
        "a request line": (b"GET /", b"x" * 65_536),
        "a chunk extension": (_CHUNKED + b"1;", b"x" * 65_536),
        "trailers": (_CHUNKED + b"1\r\nx\r\n0\r\n", b"X-Trailer: x\r\n" * 5_000),
        "empty lines": (b"", b"\r\n" * 32_768),
        "requests sent ahead": (b"", b"GET /api/v1/work/waited HTTP/1.1\r\nHost: a\r\n\r\n" * 1_000),
    }
    results = []
    with here.process() as process:
        await until_serving(here.port)
        for way, (start, part) in ways.items():
            before = resident_mib(process.pid)
            sent, answered = await _pour(here, start, part, size)
            grown = resident_mib(process.pid) - before
            results.append(
                Result(f"{way}: {size // 1_000_000} MB", "", f"{size / 1e6:.0f} MB offered",
                       f"{sent / 1e3:,.0f} kB sent", f"{answered or 'closed'}; {grown:+.0f} MiB",
                       "4xx or closed, at most +16 MiB, 5% taken",
                       holds=answered[:1] in {"4", ""} and grown < 16 and 0 < sent < size / 5)
            )  # fmt: skip
    return results


async def _pour(here: Served, start: bytes, part: bytes, size: int) -> tuple[int, str]:
    """Send the part until the server closes; return the bytes sent and the status of its response, if any."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    sent, answer = 0, b""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(60):
            writer.write(start)
            while sent < size and not reader.at_eof() and not writer.is_closing():
                writer.write(part)
                await writer.drain()
                sent += len(part)
                await asyncio.sleep(0)
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(5):
            answer = await reader.read(100)
    writer.transport.abort()
    return sent, answer[9:12].decode("latin-1")


async def ten_thousand(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """All connections are open at once, with two requests each.

    (The system allows a process 1,024 files by default.)
    """
    count = 500 if quick else 10_000
    here = project(folder, database_url)
    with here.process() as process:
        await until_serving(here.port)
        before = resident_mib(process.pid)
        began_at = time.monotonic()
        opened = [await _open(here, f"127.0.0.{2 + place % 8}") for place in range(count)]
        held = resident_mib(process.pid)
        answers = [await _ask_all(opened), await _ask_all(opened)]
        seconds = time.monotonic() - began_at
        after = resident_mib(process.pid)
        files = open_files(process.pid)
        for _, writer in opened:
            writer.transport.abort()
    errors = 2 * count - sum(answers)
    kib, kib_after = ((one - before) * 1024 / count for one in (held, after))
    return [
        Result(f"{count:,} connections at once", "", f"{2 * count:,} requests", f"{files:,} files open",
               f"{errors} errors; {kib:.1f} KiB each, {kib_after:.1f} once answered; {seconds:.0f} s",
               "0 errors, 64 KiB each", holds=errors == 0 and files > count and kib < 64)
    ]  # fmt: skip


async def _open(here: Served, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", here.port, local_addr=(source, 0), limit=1 << 12)


async def _ask_all(opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> int:
    """Return how many requests get 200, if as many run at a time as one process supports."""
    at_once = asyncio.Semaphore(200)

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        async with at_once:
            with suppress(OSError, EOFError, TimeoutError):
                async with asyncio.timeout(30):
                    writer.write(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
                    head = await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(len(b'{"status":"alive"}'))
                    return head.startswith(b"HTTP/1.1 200")
        return False

    return sum(await asyncio.gather(*(ask(*one) for one in opened)))


async def upgrades(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """A handshake on a route without a WebSocket gets that route's response and is closed. (Naive: it stayed open.)"""
    times = 20 if quick else 200
    here = project(folder, database_url)
    right = 0
    with here.process():
        await until_serving(here.port)
        for _ in range(times):
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            writer.write(
                b"GET /api/v1/work HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    answer = await reader.read(-1)
                    right += answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer
            writer.close()
    return [
        Result("WebSocket handshake on another route", "", str(times), f"{times} upgrades asked for",
               f"{right} answered and closed", "all", holds=right == times)
    ]  # fmt: skip


ONCE = (endless, ten_thousand, upgrades)
