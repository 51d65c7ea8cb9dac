"""Auto-reload that answers 503 while the application cannot start: a request does not wait for the next change."""

from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path
from socket import socket

from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from uvicorn import Config, Server
from uvicorn.supervisors import ChangeReload

from kernel.web.problems import RETRY_AFTER_SECONDS, answer

_DETAIL = "The application could not start. See its log. It starts again when a file changes."


class Reload(ChangeReload):  # type: ignore[misc, valid-type]  # uvicorn chooses its class by what is installed
    """Uvicorn's reloader, which starts a process that answers 503 when the application has ended by itself."""

    process: SpawnProcess

    def should_restart(self) -> list[Path] | None:
        if not self.process.is_alive() and not self.should_exit.is_set():
            self.process = get_context("spawn").Process(target=_serve_failure, args=(self.sockets,))
            self.process.start()
        changed: list[Path] | None = super().should_restart()
        return changed


def _serve_failure(sockets: list[socket] | None) -> None:
    Server(Config(_unavailable, lifespan="off", log_config=None, access_log=False)).run(sockets)


async def _unavailable(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        refusal = answer(Request(scope), 503, _DETAIL, headers={"Retry-After": RETRY_AFTER_SECONDS})
        await refusal(scope, receive, send)
