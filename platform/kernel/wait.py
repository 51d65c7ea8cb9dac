"""Waiting for an answer in bounded time, without taking our own lateness for the silence of others."""

import asyncio
import time
from typing import Any

# We listen in pieces of this length. One that takes longer counts as one: the rest of it, it was we who were away.
_LISTEN_SECONDS = 0.1


async def heard(answer: asyncio.Future[Any], seconds: float) -> float | None:
    """Wait for the answer for so many seconds in which we listen: how many are left, or None if it did not come.

    It is not cancelled then.
    """
    while not answer.done():
        if seconds <= 0:
            return None
        began_at = time.monotonic()
        await asyncio.wait((answer,), timeout=min(seconds, _LISTEN_SECONDS))
        seconds -= min(time.monotonic() - began_at, _LISTEN_SECONDS)
    return seconds
