"""The extension `relations`."""

from kernel.extension import Extension


class Relations(Extension):
    """Reads related rows into the fields of a schema."""

    name = "relations"
    requires = ("membership",)
