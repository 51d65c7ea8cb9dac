"""Serve a project in one process, in several, or in one that starts again at a change."""

import gc
import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from uvicorn import Config

from kernel.errors import ProjectError
from kernel.ext.server.extension import WORKERS_FOLDER
from kernel.ext.server.process import DrainingServer
from kernel.ext.server.reload import Reload
from kernel.ext.server.settings import ServerProcessSettings
from kernel.ext.server.supervisor import Supervisor
from kernel.logging import configure_logging
from kernel.project import Project
from kernel.serving import application, watched_folders

# The number of response bytes that the system may buffer before the client reads them. Linux buffers megabytes by
# default, during which a client that does not read looks like one that reads slowly.
_UNSENT_BYTES = 64 << 10


def serve(project: Project, sock: socket.socket) -> int:
    """Serve on a bound socket until a signal ends it; return the exit code.

    Raises SystemExit if the start fails, and ProjectError for settings that exclude each other.
    """
    settings = project.settings
    workers = settings.group(ServerProcessSettings).workers
    if settings.server.reload and workers > 1:
        raise ProjectError(
            "Auto-reload serves with one process: leave out --workers (SERVER_WORKERS), or add --no-reload."
        )
    with suppress(AttributeError):  # not every system has the option
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)  # its connections inherit it
    if settings.server.reload:
        return _serve_with_reload(settings.root, sock)
    if workers > 1:
        return _serve_with_workers(project, sock)
    DrainingServer(application(project)).run([sock])
    return 0


def _serve_with_workers(project: Project, sock: socket.socket) -> int:
    gc.enable()  # this process only watches the others
    configure_logging(project.settings.log)
    with tempfile.TemporaryDirectory(prefix="kernel-") as folder:
        os.environ[WORKERS_FOLDER] = folder
        return Supervisor(project.settings.group(ServerProcessSettings), sock).run()


def _serve_with_reload(root: Path, sock: socket.socket) -> int:
    gc.enable()  # this process only watches the files
    config = Config(
        "kernel.serving:application", reload=True, reload_dirs=watched_folders(root), log_config=None, access_log=False
    )
    Reload(config, target=_serve_once, sockets=[sock]).run()
    return 0


def _serve_once(sockets: list[socket.socket] | None) -> None:
    DrainingServer(application()).run(sockets)
