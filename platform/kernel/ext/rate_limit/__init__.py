"""Rate limits: for each caller, for each route, and for the whole application."""

from kernel.ext.rate_limit.rate_limit import limited

__all__ = ["limited"]
