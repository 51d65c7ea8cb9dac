"""Payments that a caller may repeat with a key. This module uses the extension idempotency."""
