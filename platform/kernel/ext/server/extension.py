"""The extension `server`."""

import os
from pathlib import Path

from kernel.ext.server.settings import ServerProcessSettings
from kernel.extension import ApplicationBuilder, Extension
from kernel.serving import Capacity, ServerRunner, Siblings

WORKERS_FOLDER = "KERNEL_WORKERS"
"""The variable with which the supervisor tells its workers the folder for their sockets."""


class Server(Extension):
    """Serves with several workers, drains before it stops, and limits slow and greedy clients."""

    name = "server"
    packages = ("httptools",)
    settings = (ServerProcessSettings,)

    def server(self) -> ServerRunner:
        from kernel.ext.server.serve import serve  # noqa: PLC0415  # by `kernel serve` only, not by every command

        return serve

    def configure(self, app: ApplicationBuilder) -> None:
        settings = app.settings.group(ServerProcessSettings)
        app.provide(Capacity(settings.max_concurrent_requests, settings.max_websockets))
        if folder := os.environ.get(WORKERS_FOLDER):
            app.provide(Siblings(Path(folder)))
