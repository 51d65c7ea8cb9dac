"""Serve probes for an orchestrator, and the routes of other extensions (/metrics), beside `kernel relay`."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kernel.health import run_checks
from kernel.runtime import Kernel
from kernel.web.problems import HANDLERS, answer

_CHECK_SECONDS = 1.0
_STOP_SECONDS = 1


class _Server(uvicorn.Server):
    """A server that leaves signals to the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def answering(kernel: Kernel, sock: socket.socket) -> AsyncIterator[None]:
    """Serve on a bound socket during the block, which may begin before the kernel runs and end after it."""
    routes = [Route("/health/live", _live), Route("/health/ready", _ready), *kernel.builder.routes]
    app = Starlette(routes=routes, exception_handlers=HANDLERS)
    app.state.kernel = kernel
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve([sock]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


async def _live(_request: Request) -> Response:
    """Report that the process runs. No dependency is checked: a restart would not repair one."""
    return JSONResponse({"status": "alive"})


async def _ready(request: Request) -> Response:
    """Report whether messages can be delivered. A failed check is named only; its error is in the log."""
    kernel: Kernel = request.app.state.kernel
    if kernel.is_stopping or not kernel.is_started:
        return answer(request, 503, "Stopping." if kernel.is_stopping else "Still starting.")
    findings = await run_checks(kernel.health_checks(), _CHECK_SECONDS)
    failed = [one.component for one in findings if one.problem is not None and not one.is_degraded]
    if failed:
        return answer(request, 503, f"Failed checks: {', '.join(failed)}.")
    return JSONResponse({"status": "ready"})
