"""What `kernel serve` runs: the application in one process or in several, or in one that starts anew at a change."""

import gc
import os
import tempfile
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernel.application import Application
    from kernel.project import Project

# Python's are 700, 10, 10: made for scripts, they look through all that is alive many times a second under load.
# These served a third more requests a second at 64 connections; larger ones brought nothing more.
_COLLECT_AFTER = (5000, 20, 50)


def application(project: "Project | None" = None) -> "Application":
    """The application, with the process's logging and memory set up; `create_app` itself leaves the process alone."""
    gc.disable()  # until the start is over: what is imported and assembled stays
    from kernel.application import create_app  # noqa: PLC0415
    from kernel.logging import configure_logging  # noqa: PLC0415
    from kernel.project import load_project  # noqa: PLC0415
    from kernel.web.access_log import configure_access_log  # noqa: PLC0415

    project = project or load_project()
    settings = project.settings
    configure_logging(settings.log)
    configure_access_log(settings.log)
    return create_app(*project, when_started=_settle)


def _settle() -> None:
    """What is alive after the start stays so: the garbage collector need not look at it again."""
    gc.freeze()
    gc.enable()
    gc.set_threshold(*_COLLECT_AFTER)


def serve(project: "Project", sock: socket) -> int:
    """Serve on a bound socket until a signal ends it: the exit code. Raises SystemExit if the start fails."""
    from kernel.ext.server.process import Server  # noqa: PLC0415  # `application` alone is for other servers, too

    settings = project.settings
    if settings.server.reload:
        gc.enable()
        return _serve_anew(settings.root, sock)
    if settings.server.workers > 1:
        from kernel.ext.server.supervisor import Supervisor  # noqa: PLC0415
        from kernel.logging import configure_logging  # noqa: PLC0415

        gc.enable()  # this one only watches the others
        configure_logging(settings.log)
        with tempfile.TemporaryDirectory(prefix="kernel-") as folder:
            os.environ["KERNEL_WORKERS"] = folder  # where they find each other: see kernel.ext.telemetry.prometheus
            return Supervisor(settings.server, sock).run()
    Server(application(project), settings.server).run([sock])
    return 0


def _serve_anew(root: Path, sock: socket) -> int:
    """In a process that starts anew when a module, a migration (for which it may wait) or the kernel changes."""
    from uvicorn import Config  # noqa: PLC0415

    from kernel.ext.server.reload import Reload  # noqa: PLC0415

    watched = (root / "modules", root / "migrations", Path(__file__).parents[2])
    folders = [str(path) for path in watched if path.is_dir()]
    config = Config(
        "kernel.ext.server:application", reload=True, reload_dirs=folders, log_config=None, access_log=False
    )
    Reload(config, target=_serve_one, sockets=[sock]).run()
    return 0


def _serve_one(sockets: list[socket] | None) -> None:
    from kernel.ext.server.process import Server  # noqa: PLC0415

    app = application()
    Server(app, app.kernel.settings.server).run(sockets)
