"""Idempotency keys: a repeated request gets the response of the first."""

from kernel.ext.idempotency.idempotency import IdempotencyTable, idempotent

__all__ = ["IdempotencyTable", "idempotent"]
