"""The extension `cors`."""

from functools import partial

from starlette.middleware.cors import CORSMiddleware

from kernel.ext.cors.settings import CorsSettings
from kernel.extension import ApplicationBuilder, Extension


class Cors(Extension):
    """Lets web pages of the listed origins read responses."""

    name = "cors"
    settings = (CorsSettings,)

    def configure(self, app: ApplicationBuilder) -> None:
        settings = app.settings.group(CorsSettings)
        app.for_web_pages = partial(
            CORSMiddleware,
            allow_origins=settings.allow_origins,
            allow_methods=settings.allow_methods,
            allow_headers=settings.allow_headers,
            expose_headers=settings.expose_headers,
            allow_credentials=settings.allow_credentials,
            max_age=settings.max_age_seconds,
        )
