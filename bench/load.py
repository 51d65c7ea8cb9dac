"""A load generator in Python that replaces wrk if it is missing: the same requests, the same line of JSON at the end.

`python -m bench.load RECIPE.json HOST:PORT CONNECTIONS SECONDS`. Like wrk, it needs a core for itself, but it sends
only a few thousand requests per second.
"""

import asyncio
import contextlib
import json
import sys
import time
from itertools import count
from pathlib import Path

import uvloop

from bench.scenarios import Recipe

_TIMEOUT_SECONDS = 10


class _Load:
    """Connections that each send a request, wait for its answer, and send the next."""

    def __init__(self, recipe: Recipe, host: str, port: int) -> None:
        self._recipe = recipe
        self._host, self._port = host, port
        self._numbers = count()
        self.latencies: list[float] = []
        self.failed = self.broken = self.late = 0

    async def connection(self, until: float) -> None:
        """Send requests until `until`; reconnect after an error."""
        while time.perf_counter() < until:
            try:
                reader, writer = await asyncio.open_connection(self._host, self._port)
            except OSError:
                self.broken += 1
                await asyncio.sleep(0.1)
                continue
            try:
                while time.perf_counter() < until:
                    await self._exchange(reader, writer)
            except TimeoutError:
                self.late += 1
            except (OSError, EOFError, ValueError):
                self.broken += 1
            finally:
                writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._bytes(next(self._numbers)))
        started = time.perf_counter()
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            _, found, rest = head.partition(b"\r\ncontent-length:")
            if found:
                await reader.readexactly(int(rest.split(b"\r\n", 1)[0]))
        self.latencies.append(time.perf_counter() - started)
        self.failed += not head.startswith(b"http/1.1 2")

    def _bytes(self, number: int) -> bytes:
        method, target, headers, body = self._recipe.request(number)
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._host}:{self._port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode() + body

    def figures(self, seconds: float) -> dict[str, float]:
        """Return the figures that lua.result_of reads."""
        ordered = sorted(self.latencies) or [0.0]
        return {
            "requests": len(self.latencies),
            "seconds": round(seconds, 6),
            "p50_ms": round(ordered[len(ordered) // 2] * 1000, 3),
            "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1000, 3),
            "failed": self.failed,
            "broken": self.broken,
            "late": self.late,
        }


async def run(recipe: Recipe, address: str, connections: int, seconds: float) -> dict[str, float]:
    """Load an address for some time, and return the figures."""
    host, _, port = address.rpartition(":")
    load = _Load(recipe, host, int(port))
    started = time.perf_counter()
    tasks = [asyncio.create_task(load.connection(started + seconds)) for _ in range(connections)]
    # Like wrk, do not wait for requests that are in progress at the end.
    await asyncio.wait(tasks, timeout=seconds)
    figures = load.figures(time.perf_counter() - started)
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return figures


def main(recipe: str, address: str, connections: str, seconds: str) -> None:
    """Print one line of JSON."""
    read = Recipe.from_dict(json.loads(Path(recipe).read_text()))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.stdout.write(json.dumps(runner.run(run(read, address, int(connections), float(seconds)))) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
