"""Uploads that are small on the wire and enormous when decoded."""

import asyncio
import struct
import threading
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from kernel.settings import find_root
from tests.faults.harness import Result
from tests.security.forms import upload
from tests.security.serving import Served, request, served

Scenario = Callable[[Path, str, bool], Awaitable[list[Result]]]

_AT_ONCE = 3
_LIVE_BOUND_SECONDS = 0.1
_MEMORY_BOUND_BYTES = 150 << 20


async def bombs(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """Three PNGs of 230 KiB at once, with 9000x9000 pixels each: refused by their headers.

    Decoded in the handler, they stalled the process for 3.8 s and took 1 GiB.
    """
    return await asyncio.to_thread(_upload, folder, database_url, 9000, 422)


async def large(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """Three PNGs of 6000x6000 at once, which are accepted: decoded one after the other, outside the event loop.

    In one thread for each upload they took 430 MiB together, of which 200 MiB were never released.
    """
    return await asyncio.to_thread(_upload, folder, database_url, 3000 if quick else 6000, 201)


def _upload(folder: Path, database_url: str, side: int, status: int) -> list[Result]:
    bomb = upload("bomb.png", _png(side))
    with served(find_root(), folder, database_url) as server:
        assert server.send(upload("small.png", _png(100))).statuses == (201,)  # Loads the decoder.
        before = server.memory_bytes()
        statuses, latencies, most = _meanwhile(server, bomb)
        after = server.memory_bytes() - before
    right = sum(answer == (status,) for answer in statuses)
    memory = most - before
    return [
        Result(
            f"{_AT_ONCE} PNGs of {side}x{side} at once",
            "SQLite" if database_url.startswith("sqlite") else "PostgreSQL",
            f"{_AT_ONCE} of {len(bomb) >> 10} KiB",
            f"{side * side * 3 >> 20} MiB each when decoded",
            f"{right} answered {status}; live {max(latencies) * 1000:.0f} ms at most in {len(latencies)}; "
            f"{memory >> 20:+d} MiB, {after >> 20:+d} afterwards",
            f"{_AT_ONCE}; 100 ms; +150 MiB, +30 afterwards",
            right == _AT_ONCE
            and max(latencies) < _LIVE_BOUND_SECONDS
            and memory < _MEMORY_BOUND_BYTES
            and after < 30 << 20,
        )
    ]


def _meanwhile(server: Served, bomb: bytes) -> tuple[list[tuple[int, ...]], list[float], int]:
    """Return the responses to the uploads, the durations of /health/live meanwhile, and the most memory used."""
    statuses: list[tuple[int, ...]] = []
    sending = [
        threading.Thread(target=lambda: statuses.append(server.send(bomb, seconds=60).statuses))
        for _ in range(_AT_ONCE)
    ]
    over = threading.Event()
    latencies, memory = [0.0], [0]

    def ask() -> None:
        while not over.wait(0.005):
            began_at = time.perf_counter()
            assert server.send(request("GET", "/health/live")).statuses == (200,)
            latencies.append(time.perf_counter() - began_at)

    def look() -> None:
        while not over.wait(0.005):
            memory.append(server.memory_bytes())

    looking = [threading.Thread(target=ask), threading.Thread(target=look)]
    for thread in (*looking, *sending):
        thread.start()
    for thread in sending:
        thread.join()
    over.set()
    for thread in looking:
        thread.join()
    return statuses, latencies, max(memory)


def _png(side: int) -> bytes:
    """Return a black square, which compresses a thousand times."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + side * 3)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


ON_BOTH: tuple[Scenario, ...] = ()
ON_POSTGRESQL: tuple[Scenario, ...] = ()
ONCE: tuple[Scenario, ...] = (bombs, large)
