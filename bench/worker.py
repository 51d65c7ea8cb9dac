"""One application in a process of its own, called as uvicorn would call it but without a socket.

`python -m bench.worker NAME` answers commands, JSON lines on standard input, with JSON lines on standard output. The
application's own output goes to standard error.
"""

import asyncio
import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TextIO

import uvloop

from bench.apps.registry import APPS
from bench.machine import spin
from bench.scenarios import Recipe

_HOST = (b"host", b"127.0.0.1:8000")
_STANDING = [_HOST, (b"user-agent", b"bench"), (b"accept", b"*/*")]


class Caller:
    """Runs an application's lifespan and sends it one request after the other."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._state: dict[str, Any] = {}
        self._to_lifespan: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_lifespan: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._lifespan: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the application. Raises RuntimeError with its message."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        run = self._app(scope, self._to_lifespan.get, self._from_lifespan.put)
        self._lifespan = asyncio.create_task(run)
        await self._step("startup")

    async def stop(self) -> None:
        """Let the application close its resources."""
        await self._step("shutdown")

    async def _step(self, name: str) -> None:
        await self._to_lifespan.put({"type": f"lifespan.{name}"})
        answer = asyncio.create_task(self._from_lifespan.get())
        assert self._lifespan is not None  # noqa: S101  # for the type checker: set by start
        await asyncio.wait({answer, self._lifespan}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise RuntimeError(f"the lifespan ended during {name}: {self._lifespan.exception()!r}")
        if not answer.result()["type"].endswith("complete"):
            raise RuntimeError(answer.result().get("message", f"{name} failed"))

    async def ask(self, request: "Prepared") -> list[dict[str, Any]]:
        """Send a request and return the messages of the answer."""
        sent: list[dict[str, Any]] = []
        body = [{"type": "http.request", "body": request.body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return body.pop() if body else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self._app({**request.scope, "state": self._state.copy()}, receive, send)
        return sent


class Prepared:
    """A request as a scope and a body, prepared before the clock starts."""

    def __init__(self, recipe: Recipe, number: int) -> None:
        method, target, headers, self.body = recipe.request(number)
        path, _, query = target.partition("?")
        raw_headers = [*_STANDING, *((name.lower().encode(), value.encode()) for name, value in headers.items())]
        if self.body:
            raw_headers.append((b"content-length", str(len(self.body)).encode()))
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": ("127.0.0.1", 8000),
            "client": ("127.0.0.1", 50000),
            "scheme": "http",
            "method": method,
            "root_path": "",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": raw_headers,
        }


async def _turn(caller: Caller, recipe: Recipe, first: int, count: int) -> dict[str, Any]:
    """Send `count` requests; return `cpu_us` and `wall_us` per request, and the spins before and after."""
    requests = [Prepared(recipe, first + number) for number in range(count)]
    before = spin()
    wall, cpu = time.perf_counter(), time.process_time()
    statuses = [(await caller.ask(request))[0]["status"] for request in requests]
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    after = spin()
    failed = sum(not 200 <= status < 300 for status in statuses)
    return {
        "cpu_us": cpu / count * 1e6,
        "wall_us": wall / count * 1e6,
        "spins": [before, after],
        "requests": count,
        "failed": failed,
    }


async def _show(caller: Caller, recipe: Recipe, first: int) -> dict[str, Any]:
    """Return one whole answer."""
    start, *parts = await caller.ask(Prepared(recipe, first))
    return {
        "status": start["status"],
        "headers": {name.decode().lower(): value.decode("latin-1") for name, value in start.get("headers", ())},
        "body": b"".join(part.get("body", b"") for part in parts).decode("latin-1"),
    }


async def _serve(name: str, channel: TextIO, traced: list[str]) -> None:
    def say(answer: dict[str, Any]) -> None:
        channel.write(json.dumps(answer) + "\n")
        channel.flush()

    caller = Caller(APPS[name].load())
    try:
        await caller.start()
    except Exception as error:  # noqa: BLE001  # the run reports every error
        say({"error": f"{name} does not start: {error}"})
        return
    say({"ready": os.getpid()})
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        recipe = Recipe.from_dict(command["recipe"])
        try:
            match command["do"]:
                case "turn":
                    say(await _turn(caller, recipe, command["first"], command["count"]))
                case "show":
                    say(await _show(caller, recipe, command["first"]))
                case "trace":
                    traced.clear()
                    await _turn(caller, recipe, command["first"], command["count"])
                    say({"statements": list(traced)})
        except Exception as error:  # noqa: BLE001  # the run reports every error
            say({"error": f"{name} failed: {error!r}"})
    await caller.stop()


def _trace_sqlite(traced: list[str]) -> None:
    """Record every statement of every SQLite connection that is opened from now on."""
    connect = sqlite3.connect

    def connect_traced(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **options)
        connection.set_trace_callback(traced.append)
        return connection

    sqlite3.connect = sqlite3.dbapi2.connect = connect_traced  # type: ignore[assignment]  # for this process alone


def main(arguments: Iterator[str]) -> None:
    """Redirect standard output, to which the application also logs, and serve commands on the original one."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    traced: list[str] = []
    name = next(arguments)
    if "--trace" in arguments:
        _trace_sqlite(traced)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, suppress(KeyboardInterrupt):
        runner.run(_serve(name, channel, traced))


if __name__ == "__main__":
    main(iter(sys.argv[1:]))
