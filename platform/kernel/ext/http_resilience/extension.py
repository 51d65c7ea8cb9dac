"""The extension `http_resilience`."""

from kernel.ext.http_resilience.limits import LimitedBodies
from kernel.ext.http_resilience.settings import ResilienceSettings
from kernel.ext.http_resilience.transport import Retries
from kernel.extension import ApplicationBuilder, Extension
from kernel.http_client import HttpxRestClientPool


class HttpResilience(Extension):
    """Repeats calls of the HTTP client where that is safe, calls a failing upstream less, and limits responses."""

    name = "http_resilience"
    settings = (ResilienceSettings,)

    def configure(self, app: ApplicationBuilder) -> None:
        settings = app.settings.group(ResilienceSettings)
        retries = Retries(settings, app.settings.http_client.pool_timeout_seconds)
        app.provide(retries)
        app.gauges.append(retries)
        install(app.http, retries, settings.max_answer_bytes)


def install(pool: HttpxRestClientPool, retries: Retries, max_answer_bytes: int) -> None:
    """Let a pool that is not open yet repeat calls and limit the bodies of responses."""
    pool.transports += [retries.around, lambda transport: LimitedBodies(transport, max_answer_bytes)]
