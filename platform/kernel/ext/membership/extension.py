"""The extension `membership`."""

from kernel.extension import Extension


class Membership(Extension):
    """Passes any number of values to a statement as one parameter."""

    name = "membership"
