"""Clients on raw sockets, in a process of their own, so that they use no processor time of the server.

`crowd(Plan(...))` starts the process. Each connection stays open and sends its next request after its answer.
"""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import uvloop

from bench.claims.processes import ROOT, allow_open_files

# If the server's queue of pending connections is full (2,048 with uvicorn), Linux drops the connection request, and the
# client repeats it after one second and after two more. A server that never pauses for 0.4 s avoids this.
CONNECTS_PER_SECOND = 5_000
# Open files of a process other than its connections.
SPARE_FILES = 200
# Linux has 28,000 ports for one source address; some of them may still be closing.
_PORTS_PER_ADDRESS = 20_000
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Plan:
    """The requests of a crowd: target, content and number."""

    port: int
    connections: int
    # Sent in turn, one after the other on each connection.
    requests: tuple[str, ...]
    per_connection: int = 1
    give_up_seconds: float = 120


@dataclass(frozen=True)
class Outcome:
    """The result of a crowd."""

    # Answers by status; 0 counts connections that failed or got no answer.
    statuses: Mapping[int, int]
    # Seconds from the first connect to the last answer.
    seconds: float
    most_open: int


def request(path: str, method: str = "GET", body: str = "") -> str:
    """Return a request as bytes."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body.encode())}\r\n"
    return f"{head}\r\n{body}"


def crowd(plan: Plan) -> Outcome:
    """Execute a plan in a process of its own."""
    command = [sys.executable, "-m", __name__]
    order = json.dumps(asdict(plan))
    done = subprocess.run(command, cwd=ROOT, input=order, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the callers failed:\n{done.stderr}")
    found = json.loads(done.stdout)
    found["statuses"] = {int(status): count for status, count in found["statuses"].items()}
    return Outcome(**found)


def status_of(answer: bytes) -> int | None:
    """Return the status of a complete answer, or None while it is incomplete."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return None
    length = _LENGTH.search(head)
    return None if length and len(body) < int(length[1]) else int(head[9:12])


class _Crowd:
    """All clients of a crowd."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.requests = [text.encode() for text in plan.requests]
        self.statuses: Counter[int] = Counter()
        self.open = self.most_open = 0
        self.waiting = plan.connections
        self.last_answer_at = 0.0
        self.done = asyncio.Event()

    def finished(self) -> None:
        """Count a client that has all its answers, or can get no more."""
        self.waiting -= 1
        if not self.waiting:
            self.done.set()

    async def run(self) -> Outcome:
        loop = asyncio.get_running_loop()
        started_at = self.last_answer_at = time.perf_counter()

        async def connect(index: int) -> None:
            crosses = self.plan.connections > _PORTS_PER_ADDRESS
            source = (f"127.0.0.{2 + index // _PORTS_PER_ADDRESS}", 0) if crosses else None
            await asyncio.sleep(started_at + index / CONNECTS_PER_SECOND - time.perf_counter())
            try:
                await loop.create_connection(
                    lambda: _Caller(self, index), "127.0.0.1", self.plan.port, local_addr=source
                )
            except OSError:
                self.statuses[0] += 1
                self.finished()

        connecting = asyncio.gather(*(connect(index) for index in range(self.plan.connections)))
        try:
            async with asyncio.timeout(self.plan.give_up_seconds):
                await connecting
                await self.done.wait()
        except TimeoutError:
            self.statuses[0] += self.waiting
        return Outcome(dict(self.statuses), self.last_answer_at - started_at, self.most_open)


class _Caller(asyncio.Protocol):
    """One connection."""

    def __init__(self, everybody: _Crowd, index: int) -> None:
        self._crowd = everybody
        self._next = index  # Connections begin with different requests.
        self._left = everybody.plan.per_connection
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports derive from nothing of asyncio's
        self._crowd.open += 1
        self._crowd.most_open = max(self._crowd.most_open, self._crowd.open)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        status = status_of(self._received)
        if status is None:
            return
        self._received = b""
        self._crowd.statuses[status] += 1
        self._crowd.last_answer_at = time.perf_counter()
        self._left -= 1
        if self._left:
            self._send()
        else:
            self._crowd.finished()

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.open -= 1
        if self._left:
            self._crowd.statuses[0] += 1
            self._left = 0
            self._crowd.finished()

    def _send(self) -> None:
        if self._transport is not None:
            requests = self._crowd.requests
            self._transport.write(requests[self._next % len(requests)])
            self._next += 1


async def _run(plan: Plan) -> Outcome:
    return await _Crowd(plan).run()


def main() -> None:
    """Read a plan from standard input, execute it, and write the outcome to standard output."""
    order = json.load(sys.stdin)
    order["requests"] = tuple(order["requests"])
    plan = Plan(**order)
    allow_open_files(plan.connections + SPARE_FILES)
    print(json.dumps(asdict(uvloop.run(_run(plan)))))


if __name__ == "__main__":
    main()
