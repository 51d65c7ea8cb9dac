"""The extension `compression`."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from kernel.ext.compression.middleware import Compression
from kernel.extension import ApplicationBuilder, Extension
from kernel.settings import SettingsGroup


class CompressionSettings(SettingsGroup):
    """The sizes of responses to compress. The core and the extension `server` have more settings with this prefix."""

    model_config = SettingsConfigDict(env_prefix="SERVER_")

    # Smaller responses fit into one or two packets, so compression has little effect.
    gzip_minimum_bytes: int = Field(1000, ge=0)


class CompressionExtension(Extension):
    """Compresses large responses for callers that accept gzip."""

    name = "compression"
    settings = (CompressionSettings,)

    def configure(self, app: ApplicationBuilder) -> None:
        minimum_bytes = app.settings.group(CompressionSettings).gzip_minimum_bytes
        # The outermost layer, so that other middleware reads and records uncompressed responses.
        app.outer_middleware.insert(0, lambda inner: Compression(inner, minimum_bytes))
