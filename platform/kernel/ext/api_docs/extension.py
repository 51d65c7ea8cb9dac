"""The extension `api_docs`."""

from collections.abc import Mapping
from typing import ClassVar

from kernel.ext.api_docs.pages import pages
from kernel.extension import ApplicationBuilder, Extension


class ApiDocs(Extension):
    """Swagger UI at /docs and ReDoc at /redoc, except in PROD."""

    name = "api_docs"
    packages = ("fastapi_offline",)
    pages: ClassVar[Mapping[str, str]] = {"Docs": "/docs"}

    def configure(self, app: ApplicationBuilder) -> None:
        application = app.settings.application
        if application.openapi_url is not None:
            app.routes += pages(application.title, application.openapi_url)
