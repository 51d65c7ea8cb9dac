"""The extension `http_retries`."""

from kernel.ext.http_retries.settings import RetrySettings
from kernel.ext.http_retries.transport import Retries
from kernel.extension import ApplicationBuilder, Extension


class HttpRetries(Extension):
    """Tries calls of the HTTP client again where that is safe, and gives a failing upstream a rest."""

    name = "http_retries"
    settings = (RetrySettings,)

    def configure(self, app: ApplicationBuilder) -> None:
        retries = Retries(app.settings.group(RetrySettings), app.settings.http_client.pool_timeout_seconds)
        app.provide(retries)
        app.gauges.append(retries)
        app.http.wrap_transport = retries.around
