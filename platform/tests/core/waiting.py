"""Waiting for an event that no object in this process announces."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


async def until(look: Callable[[], Awaitable[object]], seconds: float = 30) -> Any:
    """Return the first result of `look` that is true. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not (seen := await look()):  # noqa: ASYNC110  # what changes is in another process
            await asyncio.sleep(0.02)
    return seen
