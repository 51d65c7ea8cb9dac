"""Rate limits for each caller: on single routes, and over all routes."""

from kernel.ext.rate_limit.limited import limited

__all__ = ["limited"]
