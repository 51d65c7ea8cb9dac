"""Clients that are slow or send too much. Guards against a server that waits for them, or stores everything."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import httpx2

from tests.faults.harness import Result, percentiles, until_serving
from tests.faults.served import Served, project, resident_mib

Scenario = Callable[[Path, str, bool], Awaitable[list[Result]]]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

CLOSED_WITHIN_SECONDS = 10
_HEAD = b"POST /api/v1/work/bytes HTTP/1.1\r\nHost: a\r\n"


async def slow_callers(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """Slow heads, bodies and readers, silence, half a request. (uvicorn has only a keep-alive timeout.)"""
    each = 5 if quick else 100
    # The default is 75 s, because a proxy in front of the server must close first (docs/server.md).
    here = project(folder, database_url, SERVER_KEEP_ALIVE_TIMEOUT_SECONDS="5")
    with here.process() as process:
        await until_serving(here.port)
        before = resident_mib(process.pid)
        healthy = asyncio.create_task(_healthy(here))
        ways = {
            "sends nothing": _silent,
            "sends a header a second": _drips_head,
            "sends empty lines": _drips_lines,
            "sends half a head": _half_head,
            "sends a byte of its body a second": _drips_body,
            "sends half a body": _half_body,
            "sends a chunk a second": _drips_chunks,
            "never reads 30 MB": _never_reads,
            "is idle after an answer": _idle,
        }
        took = await asyncio.gather(*(_until_closed(here, talk, each) for talk in ways.values()))
        healthy.cancel()
        [(answered, failed, seconds)] = await asyncio.gather(healthy)
        grown = resident_mib(process.pid) - before
    median, p99 = percentiles(seconds)
    results = []
    for way, closed_after in zip(ways, took, strict=True):
        slowest = max(closed_after)
        results.append(
            Result(f"a client {way}", "", f"{each} at once", f"all open for {min(closed_after):.1f} s",
                   f"closed after at most {slowest:.1f} s", f"{CLOSED_WITHIN_SECONDS} s",
                   holds=slowest <= CLOSED_WITHIN_SECONDS and min(closed_after) > 1)
        )  # fmt: skip
    results.append(
        Result("healthy clients beside them", "", f"{answered:,} requests", f"{each * len(ways)} slow callers",
               f"{failed} failed; p50 {median:.0f}, p99 {p99:.0f} ms; {grown:+.0f} MiB", "0 failed, p99 500 ms",
               holds=failed == 0 and answered > 50 and p99 < 500)
    )  # fmt: skip
    return results


async def _until_closed(here: Served, talk: Talk, times: int) -> list[float]:
    return list(await asyncio.gather(*(_one(here, talk) for _ in range(times))))


async def _one(here: Served, talk: Talk) -> float:
    """Return for how long the server kept a connection on which a client sends in this way."""
    reader, writer = await asyncio.open_connection(sock=here.connect(SO_RCVBUF=4096), limit=1 << 12)
    began_at = time.monotonic()
    try:
        async with asyncio.timeout(60):
            await talk(reader, writer)
    except (OSError, TimeoutError):
        pass
    took = time.monotonic() - began_at
    writer.transport.abort()
    return took


async def _keep_on(writer: asyncio.StreamWriter, reader: asyncio.StreamReader, part: bytes) -> None:
    """Send a part each second until the server closes."""
    with suppress(OSError):
        while not writer.is_closing() and not reader.at_eof():
            writer.write(part)
            await writer.drain()
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    while await reader.read(1 << 12):
                        pass
                return


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _keep_on(writer, reader, b"")


async def _drips_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /api/v1/work HTTP/1.1\r\nHost: a\r\n")
    await _keep_on(writer, reader, b"X-More: 1\r\n")


async def _drips_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _keep_on(writer, reader, b"\r\n")


async def _half_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /api/v1/wo")
    await _keep_on(writer, reader, b"")


async def _drips_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b"Content-Length: 1000\r\n\r\n")
    await _keep_on(writer, reader, b"x")


async def _half_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 500)
    await _keep_on(writer, reader, b"")


async def _drips_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    await _keep_on(writer, reader, b"1\r\nx\r\n")


async def _never_reads(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never read the response; the receive buffer is small."""
    writer.write(b"GET /api/v1/work/large HTTP/1.1\r\nHost: a\r\n\r\n")
    sock = writer.get_extra_info("socket")
    while not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):  # noqa: ASYNC110  # what changes is the other side
        await asyncio.sleep(0.2)


async def _idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    await reader.read(-1)


async def _healthy(here: Served) -> tuple[int, int, list[float]]:
    """Send requests until cancelled; return the numbers of responses and failures, and the durations."""
    seconds: list[float] = []
    failed = 0
    with suppress(asyncio.CancelledError):
        async with httpx2.AsyncClient() as client:
            while True:
                began_at = time.perf_counter()
                try:
                    answer = await client.get(f"{here.url}/api/v1/work", timeout=10)
                    failed += answer.status_code != 200
                except httpx2.HTTPError:
                    failed += 1
                seconds.append(time.perf_counter() - began_at)
                await asyncio.sleep(0.01)
    return len(seconds), failed, seconds


async def slow_and_fair(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """A mobile network with 50 KiB/s in both directions is served.

    (Naive: a deadline for the whole request would end it.)
    """
    seconds = 11 if quick else 25
    here = project(folder, database_url, WORK_MAX_BODY_BYTES="20000000")
    with here.process():
        await until_serving(here.port)
        uploads = [_upload(here, seconds) for _ in range(10)]
        downloads = [_download(here, seconds) for _ in range(10)]
        whole = sum(await asyncio.gather(*uploads, *downloads))
    return [
        Result("clients at 50 KiB a second", "", "10 uploads, 10 downloads", f"each of {seconds} s or longer",
               f"{20 - whole} cut off", "0", holds=whole == 20)
    ]  # fmt: skip


async def _upload(here: Served, seconds: int) -> bool:
    part = b"x" * (50 << 10)
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    with suppress(OSError):
        writer.write(_HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % (len(part) * seconds))
        for _ in range(seconds):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(1)
        answer = await reader.read(-1)
        writer.close()
        return answer.endswith(str(len(part) * seconds).encode())
    return False


async def _download(here: Served, seconds: int) -> bool:
    """Read for a limited time only, because the server would end a slow reader."""
    reader, writer = await asyncio.open_connection(sock=here.connect(SO_RCVBUF=16 << 10), limit=16 << 10)
    writer.write(b"GET /api/v1/work/large HTTP/1.1\r\nHost: a\r\n\r\n")
    with suppress(OSError, EOFError):
        for _ in range(seconds):
            await reader.readexactly(50 << 10)
            await asyncio.sleep(1)
        await reader.readexactly(50 << 10)
        writer.transport.abort()
        return True
    return False


ONCE = (slow_callers, slow_and_fair)
