"""What `kernel serve` runs in each process."""

import gc

from kernel.app import Application, create_app, load_settings
from kernel.observability.logs import configure_logging
from kernel.web.access_log import configure_access_log

# Python's are 700, 10, 10: made for scripts, they look through everything alive many times a second under load.
# Measured with these: a third more requests a second at 64 connections.
_COLLECT_AFTER = (5000, 20, 50)


def application() -> Application:
    """The application, with the process's logging and memory set up; `create_app` itself leaves the process alone."""
    settings = load_settings()
    configure_logging(settings.log)
    configure_access_log(settings.log)
    return create_app(settings, when_started=_settle)


def _settle() -> None:
    """What is alive after the start stays so: the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
