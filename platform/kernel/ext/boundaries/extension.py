"""The extension `boundaries`."""

from kernel.extension import Extension


class Boundaries(Extension):
    """Checks that keep modules apart. It adds commands for development, and nothing to a running application."""

    name = "boundaries"
