"""The server of `kernel serve`: plain uvicorn, unless an extension brings another one."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from socket import AF_INET, AF_INET6, SO_REUSEADDR, SOL_SOCKET, socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernel.application import Application
    from kernel.project import Project

ServerRunner = Callable[["Project", socket], int]
"""Serves a project on a bound socket until a signal ends it, and returns the exit code of the process."""

# Python's thresholds are 700, 10, 10: under load it searches all live objects for garbage many times a second. With
# these the application served a third more requests per second at 64 connections; larger ones brought no more.
_COLLECT_AFTER = (5000, 20, 50)


@dataclass(frozen=True)
class Siblings:
    """The processes that serve on the same socket. Each may listen on `<its pid>.sock` in this folder."""

    folder: Path


@dataclass(frozen=True)
class Capacity:
    """How many requests and WebSockets this process handles at a time before it answers 503."""

    requests: int
    websockets: int


def application(project: "Project | None" = None) -> "Application":
    """Return the application, and set up the process for it: logging and the garbage collector.

    Servers that import a factory use this one; `create_app` changes nothing outside the application.
    """
    gc.disable()  # until the start is over: what it imports and assembles stays alive
    from kernel.application import create_app  # noqa: PLC0415
    from kernel.logging import configure_logging  # noqa: PLC0415
    from kernel.project import load_project  # noqa: PLC0415

    project = project or load_project()
    configure_logging(project.settings.log)
    app = create_app(*project, when_started=_freeze)
    app.access_log = app.kernel.builder.access_log or app.access_log
    return app


def _freeze() -> None:
    """Exempt what is alive after the start from garbage collection."""
    gc.freeze()
    gc.enable()
    gc.set_threshold(*_COLLECT_AFTER)


def listen(host: str, port: int) -> socket:
    """Return a socket that is bound and does not listen yet. Raises OSError."""
    sock = socket(AF_INET6 if ":" in host else AF_INET)
    sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    sock.set_inheritable(True)
    return sock


def runner_for(project: "Project") -> ServerRunner:
    """Return the server of the first extension that brings one, or plain uvicorn."""
    found = (extension().server() for extension in project.extensions)
    return next((runner for runner in found if runner is not None), serve)


def serve(project: "Project", sock: socket) -> int:
    """Serve with plain uvicorn: one process, which starts again at a change if SERVER_RELOAD is on."""
    import uvicorn  # noqa: PLC0415
    from uvicorn.config import STARTUP_FAILURE  # noqa: PLC0415
    from uvicorn.supervisors import ChangeReload  # noqa: PLC0415

    settings = project.settings.server
    config = uvicorn.Config(
        "kernel.serving:application" if settings.reload else application(project),
        factory=settings.reload,
        reload=settings.reload,
        reload_dirs=watched_folders(project.settings.root),
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips=list(settings.forwarded_allow_ips),
        root_path=settings.root_path,
    )
    server = uvicorn.Server(config)
    if settings.reload:
        gc.enable()  # this process only watches the files
        ChangeReload(config, target=server.run, sockets=[sock]).run()
        return 0
    server.run(sockets=[sock])
    return 0 if server.started else STARTUP_FAILURE


def watched_folders(root: Path) -> list[str]:
    """Return the folders whose changes restart a server with auto-reload."""
    folders = (root / "modules", root / "migrations", Path(__file__).parent)
    return [str(path) for path in folders if path.is_dir()]
