"""The extension `conditional`."""

from kernel.extension import Extension


class ConditionalRequests(Extension):
    """ETags on responses, and requests that depend on the version that the caller has."""

    name = "conditional"
