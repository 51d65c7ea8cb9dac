"""The extension `channel`."""

from kernel.ext.channel.channel import ChannelSlot
from kernel.extension import ApplicationBuilder, Extension


class Channel(Extension):
    """Lets extensions use calls between processes without knowing which extension makes them."""

    name = "channel"

    def configure(self, app: ApplicationBuilder) -> None:
        app.provide(ChannelSlot())
