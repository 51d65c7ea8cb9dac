"""One process that serves: its start, the supervision of its connections, and its stop."""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from kernel.application import Application
from kernel.ext.server.connection_budget import report_connections
from kernel.ext.server.protocol import Connection, ProcessState
from kernel.ext.server.settings import ServerProcessSettings
from kernel.settings import ServerSettings
from kernel.web.context import find_context
from kernel.web.middleware import RequestContextMiddleware
from kernel.web.problems import RETRY_AFTER_SECONDS, answer

_log = logging.getLogger("kernel.ext.server")

# The supervisor retires a worker with this signal: the other workers keep the socket.
RETIRE = getattr(signal, "SIGUSR1", None)
# In ticks of a tenth of a second.
_CHECK_EVERY = 10
# How long cancelled tasks may take to end, and the process after its last task.
_CUT_SECONDS = 1
# Open connections and files. The usual default of 1,024 is used up by a thousand clients.
_WANTED_FILES = 65_536


class DrainingServer(uvicorn.Server):
    """Uvicorn's server with a drain: before it stops, it reports for a while that it is not ready.

    The first SIGTERM or SIGINT begins the stop, the second shortens it.
    """

    def __init__(
        self,
        app: Application,
        beat: Callable[[], None] | None = None,
        *,
        counts_connections: bool = True,
    ) -> None:
        """Call `beat` about once a second while the event loop runs."""
        socket_settings = app.kernel.settings.server
        settings = app.kernel.settings.group(ServerProcessSettings)
        super().__init__(_config(app, socket_settings, settings))
        self.server_state: ProcessState = ProcessState(settings)
        # uvicorn and Starlette declare different types for ASGI.
        overloaded: Any = RequestContextMiddleware(app.kernel, _overloaded, app.access_log)
        self.server_state.overloaded = ProxyHeadersMiddleware(overloaded, list(socket_settings.forwarded_allow_ips))
        self._kernel = app.kernel
        self._settings = settings
        self._beat = beat
        self._counts_connections = counts_connections
        self._counting: asyncio.Task[None] | None = None
        self._checked_at = time.monotonic()
        self._stop_at: float | None = None
        self._is_announced = False
        self._is_over: asyncio.Task[object] | None = None

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal ends the server and with it the process. Raises SystemExit if the start fails."""
        _raise_limit_of_files()
        super().run(sockets)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._is_over = asyncio.current_task()
        if RETIRE is not None:
            signal.signal(RETIRE, lambda *_: self._begin_stop(keeps_accepting=False))
        code, seconds = uvicorn.config.STARTUP_FAILURE, float(_CUT_SECONDS)
        try:
            await super().serve(sockets)
            code = 0
        except asyncio.CancelledError:  # stopped during the start: pools are closed after this
            code, seconds = 0, self._settings.close_timeout_seconds
        finally:
            _end_within(seconds, code)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as error:
            _log.error("Cannot listen: %s", error)
            await self._close()
            sys.exit(uvicorn.config.STARTUP_FAILURE)
        if self._counts_connections:
            self._counting = asyncio.create_task(report_connections(self._kernel))

    async def on_tick(self, counter: int) -> bool:
        state = self.server_state
        state.now = time.monotonic()
        if counter % _CHECK_EVERY == 0:
            for connection in list(state.connections):
                watched: Any = connection  # a Connection, or a WebSocketConnection, which only some applications import
                watched.check_pace(state.now - self._checked_at)
            self._checked_at = state.now
            if self._beat is not None:
                self._beat()
        is_over = await super().on_tick(counter)
        if self._stop_at is None:
            return is_over
        if not self._is_announced:
            self._announce_stop()
        return is_over or state.now >= self._stop_at

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._stop_at is not None or self.should_exit:
            self.should_exit = self.force_exit = True
        elif self.started:
            self._begin_stop()
        else:
            self.should_exit = True
            if self._is_over is not None:
                self._is_over.cancel()

    def abandon(self) -> None:
        """Stop as at the first SIGTERM, but free the port at once for another server."""
        if self._stop_at is None:
            self._begin_stop()
        for server in self.servers:
            server.close()

    def _begin_stop(self, *, keeps_accepting: bool = True) -> None:
        """Note the stop. This runs inside a signal handler: the next tick does the rest."""
        self.server_state.is_stopping = True
        self._kernel.is_stopping = keeps_accepting  # a retired worker leaves the address to others, which are ready
        self._stop_at = time.monotonic() + self._settings.drain_seconds

    def _announce_stop(self) -> None:
        self._is_announced = True
        _log.info("stopping: serving for %g s more", self._settings.drain_seconds)
        if not self._kernel.is_stopping:
            for server in self.servers:
                server.close()
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.finish()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        state, settings = self.server_state, self._settings
        # In case something blocks the event loop. Otherwise `serve` ends the process sooner.
        _end_within(settings.graceful_shutdown_timeout_seconds + settings.close_timeout_seconds + 3 * _CUT_SECONDS, 0)
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        for connection in list(state.connections):
            connection.shutdown()
            if isinstance(connection, Connection):
                connection.end_stream()
        give_up_at = time.monotonic() + settings.graceful_shutdown_timeout_seconds
        while time.monotonic() < give_up_at:
            if self.force_exit or not (state.tasks or state.websockets or state.connections):
                break
            await asyncio.sleep(0.02)  # uvicorn has no event for the end of a task or a connection
        if state.tasks or state.websockets:
            await self._cut()
        for connection in list(state.connections):
            connection.transport.abort()
        await self._close()

    async def _close(self) -> None:
        """Close what the application has opened."""
        try:
            async with asyncio.timeout(_CUT_SECONDS if self.force_exit else self._settings.close_timeout_seconds):
                await self.lifespan.shutdown()
        except TimeoutError:
            _log.error("Not everything could be closed in time (SERVER_CLOSE_TIMEOUT_SECONDS); the process ends anyway")

    async def _cut(self) -> None:
        """Cancel the requests that have not ended. Their transactions are rolled back."""
        state = self.server_state
        tasks = state.tasks | state.websockets
        unfinished = [task.get_name() for task in state.websockets]
        for connection in list(state.connections):
            if isinstance(connection, Connection) and connection.cycle and not connection.cycle.response_complete:
                unfinished.append(f"{connection.cycle.scope['method']} {connection.cycle.scope['path']}")
                context = find_context(connection.cycle.scope)
                if context is not None and not connection.transport.is_closing():  # otherwise the client has left
                    context.status_without_response = 503
                connection.cut()
        _log.error(
            "%d request(s) cancelled: they did not end within SERVER_GRACEFUL_SHUTDOWN_TIMEOUT_SECONDS: %s",
            len(tasks),
            ", ".join(unfinished[:10]),
        )
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_CUT_SECONDS)


async def _overloaded(scope: Scope, receive: Receive, send: Send) -> None:
    detail = "The server has as many requests in work as it can bear. Try again shortly."
    headers = {"Retry-After": RETRY_AFTER_SECONDS}
    await answer(Request(scope), 503, detail, headers=headers)(scope, receive, send)


def _end_within(seconds: float, code: int) -> None:
    """End the process after this time: a thread cannot be cancelled, and a task may ignore its cancellation."""

    def end() -> None:
        time.sleep(seconds)
        threads = [one.name for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()]
        try:
            _log.error("Something does not end; the process ends without it. Threads: %s", ", ".join(threads) or "none")
            logging.shutdown()
            sys.stdout.flush()
        finally:
            os._exit(code)

    threading.Thread(target=end, daemon=True).start()


def _config(app: Application, sock: ServerSettings, process: ServerProcessSettings) -> uvicorn.Config:
    sockets = app.kernel.builder.websockets
    return uvicorn.Config(
        app,
        http=Connection,
        ws="kernel.ext.server.websockets:WebSocketConnection" if sockets and sockets.are_routed(app) else "none",
        # A message is limited to the max_body_bytes of its module; this is the largest of them.
        ws_max_size=max((one.settings.max_body_bytes for one in app.kernel.contexts.values()), default=1),
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=process.backlog,
        proxy_headers=True,
        forwarded_allow_ips=list(sock.forwarded_allow_ips),
        root_path=sock.root_path,
        timeout_keep_alive=process.keep_alive_timeout_seconds,
    )


def _raise_limit_of_files() -> None:
    try:
        import resource  # noqa: PLC0415  # Windows has none
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
