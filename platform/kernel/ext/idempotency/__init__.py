"""Idempotency keys: a repeated request gets the response of the first."""

from kernel.ext.idempotency.idempotent import idempotent
from kernel.ext.idempotency.keys import IdempotencyTable

__all__ = ["IdempotencyTable", "idempotent"]
