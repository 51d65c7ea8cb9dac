"""What `kernel serve` runs in each process."""

from kernel.app import Application, create_app, load_settings
from kernel.observability.logs import configure_logging
from kernel.web.access_log import configure_access_log


def application() -> Application:
    """The application, with the process's logging set up; `create_app` itself leaves the process alone."""
    settings = load_settings()
    configure_logging(settings.log)
    configure_access_log(settings.log)
    return create_app(settings)
