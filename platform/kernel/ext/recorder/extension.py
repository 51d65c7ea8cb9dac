"""The extension `recorder`."""

from kernel.ext.recorder.recorder import RecordingMiddleware, Replay, on_replay
from kernel.extension import ApplicationBuilder, Extension


class Recorder(Extension):
    """Records responses and sends them again, for extensions that require it."""

    name = "recorder"

    def configure(self, app: ApplicationBuilder) -> None:
        app.outer_middleware.append(RecordingMiddleware)
        app.error_handlers[Replay] = on_replay
