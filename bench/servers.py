"""Applications on uvicorn, and their load generators."""

import asyncio
import json
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from bench import lua
from bench.apps.registry import APPS, Places, environment
from bench.database import ROOT
from bench.errors import BenchmarkError
from bench.machine import APP_CORE, OTHER_CORE, pin, pinned_to, resident_mib
from bench.scenarios import Recipe

CONNECTIONS = 64
_START_SECONDS = 30


class Server:
    """An application that serves on a port of the loopback interface."""

    def __init__(self, name: str, pid: int, port: int, log: Path, cursors: Sequence[str]) -> None:
        self.name = name
        self.pid = pid
        self.port = port
        self.cursors = cursors
        self.resident_at_start = resident_mib(pid)
        self._log = log

    @property
    def resident_now(self) -> float | None:
        return resident_mib(self.pid)

    def forget_log(self) -> None:
        """Empty the application's log, so that a long run does not fill the disk."""
        os.truncate(self._log, 0)

    @classmethod
    @asynccontextmanager
    async def started(cls, name: str, places: Places, cursors: Sequence[str]) -> "AsyncIterator[Server]":
        """Start it and wait until it answers. Raises BenchmarkError with its log."""
        port, log = _free_port(), places.logs / f"server-{name}.log"
        with log.open("a") as output:
            process = await asyncio.create_subprocess_exec(
                *_command(name, port), cwd=ROOT, env=environment(APPS[name], places), stdout=output, stderr=output
            )
        try:
            for _ in range(_START_SECONDS * 10):
                if process.returncode is not None:
                    break
                if await _answers(port):
                    pin(process.pid, APP_CORE)
                    yield cls(name, process.pid, port, log, cursors)
                    return
                await asyncio.sleep(0.1)
            raise BenchmarkError(f"{name} does not serve:\n{log.read_text()[-3000:]}")
        finally:
            if process.returncode is None:
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 15)
            except TimeoutError:
                process.kill()
                await process.wait()


def _command(name: str, port: int) -> list[str]:
    if APPS[name].is_ours:
        kernel = str(Path(sys.executable).parent / "kernel")
        return [kernel, "serve", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    return [sys.executable, "-m", "bench.server", name, str(port)]


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def _answers(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
    except OSError:
        return False
    return b" 200 " in answer.split(b"\r\n", 1)[0]


@asynccontextmanager
async def servers(
    names: Sequence[str], places: Places, cursors: Mapping[str, Sequence[str]]
) -> AsyncIterator[dict[str, Server]]:
    """Run a server for each application, all at once: idle ones use no CPU time."""
    async with AsyncExitStack() as stack:
        entered = [stack.enter_async_context(Server.started(name, places, cursors.get(name, ()))) for name in names]
        started = await asyncio.gather(*entered, return_exceptions=True)
        for server in started:
            if isinstance(server, BaseException):
                raise server
        yield {server.name: server for server in started if isinstance(server, Server)}


class Generator:
    """wrk with a script, or the generator in Python if wrk is missing."""

    def __init__(self, folder: Path, *, may_use_wrk: bool) -> None:
        self._folder = folder
        self._wrk = shutil.which("wrk") if may_use_wrk else None

    @property
    def name(self) -> str:
        return "wrk" if self._wrk else "bench.load"

    async def run(self, recipe: Recipe, port: int, seconds: float, connections: int = CONNECTIONS) -> dict[str, Any]:
        """Load a port for some time, and return the figures of lua.result_of. wrk counts in whole seconds."""
        if self._wrk:
            path = self._folder / "script.lua"
            path.write_text(lua.script(recipe))
            whole = str(max(1, round(seconds)))
            command = [self._wrk, "-t1", f"-c{connections}", f"-d{whole}", "--latency", "-s", str(path)]
            command.append(f"http://127.0.0.1:{port}")
        else:
            path = self._folder / "recipe.json"
            path.write_text(json.dumps(recipe.as_dict()))
            command = [sys.executable, "-m", "bench.load", str(path), f"127.0.0.1:{port}"]
            command += [str(connections), str(seconds)]
        with pinned_to(OTHER_CORE):
            process = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
        output, _ = await process.communicate()
        try:
            return lua.result_of(output.decode(errors="replace"))
        except ValueError as error:
            raise BenchmarkError(str(error)) from None
