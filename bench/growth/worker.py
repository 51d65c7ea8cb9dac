"""An application in a process of its own, called without a socket by commands over a pipe.

Two projects cannot share a process, because each has a package `modules`. Two processes can take turns.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import uvloop
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Scope

from bench.claims.processes import ROOT, stop


@dataclass(frozen=True)
class Turn:
    """The cost of several calls of one path."""

    # The time of the whole process, threads included.
    cpu_seconds: float
    seconds: float
    status: int
    # The body of the last answer.
    size: int


class Worker:
    """A waiting application in a process of its own, seen from this process."""

    def __init__(self, commands: IO[bytes], answers: IO[bytes]) -> None:
        self._commands = commands
        self._answers = answers

    def call(self, path: str, count: int, headers: Mapping[str, str] | None = None) -> Turn:
        """Send this number of GETs of `path`, one after the other. Raises RuntimeError if the process has ended."""
        self._commands.write(
            json.dumps({"path": path, "count": count, "headers": dict(headers or {})}).encode() + b"\n"
        )
        self._commands.flush()
        return Turn(**self._read())

    def wait_until_started(self) -> None:
        """Return when the application is ready."""
        self._read()

    def _read(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise RuntimeError("the application ended: see its log")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def worker(project: Path, variables: Mapping[str, str], log: Path, *, bare: bool = False) -> Iterator[Worker]:
    """Start the application of a project; `bare` puts its routers into a plain FastAPI without the kernel."""
    command = [sys.executable, "-m", __name__, str(project), "bare" if bare else "kernel"]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
        try:
            assert process.stdin is not None  # noqa: S101  # for the type checker
            assert process.stdout is not None  # noqa: S101
            yield Worker(process.stdin, process.stdout)
        finally:
            stop(process)


async def call(app: ASGIApp, path: str, headers: Mapping[str, str]) -> tuple[int, int]:
    """Send one GET as a server would, and return the answer's status and the size of its body."""
    plain, _, query = path.partition("?")
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": plain,
        "raw_path": plain.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"localhost"), *((k.lower().encode(), v.encode()) for k, v in headers.items())],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    status = size = 0

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, size
        status = message.get("status", status)
        size += len(message.get("body", b""))

    await app(scope, receive, send)
    return status, size


async def _work(app: Starlette, answers: IO[bytes]) -> None:
    async with app.router.lifespan_context(app):
        answers.write(b"{}\n")
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
            order = json.loads(line)
            status = size = 0
            started_at, cpu_at = time.perf_counter(), time.process_time()
            for _ in range(order["count"]):
                status, size = await call(app, order["path"], order["headers"])
            turn = Turn(time.process_time() - cpu_at, time.perf_counter() - started_at, status, size)
            answers.write(json.dumps(vars(turn)).encode() + b"\n")


def _bare() -> Starlette:
    """Return a plain FastAPI with the routers of the project's modules."""
    from fastapi import FastAPI  # noqa: PLC0415

    from kernel.modules.discovery import discover  # noqa: PLC0415
    from kernel.project import load_settings  # noqa: PLC0415

    app = FastAPI()
    for module in discover(load_settings().root):
        if module.router is not None:
            app.include_router(module.router, prefix=module.prefix, tags=list(module.tags))
    return app


def main(project: str, kind: str) -> None:
    """Serve the pipe on standard input and output. The application's own output goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    os.chdir(project)
    sys.path.insert(0, project)
    if kind == "bare":
        app = _bare()
    else:
        from kernel.serving import application  # noqa: PLC0415

        app = application()
    uvloop.run(_work(app, answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
