"""The extension `fields`."""

from kernel.extension import Extension


class Fields(Extension):
    """Types for the fields of requests and of contracts."""

    name = "fields"
