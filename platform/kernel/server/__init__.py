"""What `kernel serve` runs in each process."""

import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernel.app import Application, Project

# Python's are 700, 10, 10: made for scripts, they look through all that is alive many times a second under load.
# These served a third more requests a second at 64 connections; larger ones brought nothing more.
_COLLECT_AFTER = (5000, 20, 50)


def application(project: "Project | None" = None) -> "Application":
    """The application, with the process's logging and memory set up; `create_app` itself leaves the process alone."""
    gc.disable()  # until the start is over: what is imported and assembled stays
    from kernel.app import create_app, load_project  # noqa: PLC0415
    from kernel.observability.logs import configure_logging  # noqa: PLC0415
    from kernel.web.access_log import configure_access_log  # noqa: PLC0415

    settings, modules = project or load_project()
    configure_logging(settings.log)
    configure_access_log(settings.log)
    return create_app(settings, modules, when_started=_settle)


def _settle() -> None:
    """What is alive after the start stays so: the garbage collector need not look at it again."""
    gc.freeze()
    gc.enable()
    gc.set_threshold(*_COLLECT_AFTER)
