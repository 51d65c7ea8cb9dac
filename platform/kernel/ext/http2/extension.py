"""The extension `http2`."""

from pydantic_settings import SettingsConfigDict

from kernel.ext.http2 import patch
from kernel.ext.http2.transport import ProtocolErrors
from kernel.extension import ApplicationBuilder, Extension
from kernel.http_client import HttpxRestClientPool
from kernel.settings.groups import SettingsGroup


class Http2Settings(SettingsGroup):
    """HTTP/2 of the HTTP client."""

    model_config = SettingsConfigDict(env_prefix="HTTP_CLIENT_")

    http2: bool = True


class Http2(Extension):
    """Lets the HTTP client speak HTTP/2 with upstreams that offer it."""

    name = "http2"
    packages = ("h2",)
    settings = (Http2Settings,)

    def configure(self, app: ApplicationBuilder) -> None:
        if app.settings.group(Http2Settings).http2:
            install(app.http)


def install(pool: HttpxRestClientPool) -> None:
    """Let a pool that is not open yet speak HTTP/2."""
    patch.apply()
    pool.http2 = True
    pool.transports.insert(0, ProtocolErrors)
