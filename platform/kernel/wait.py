"""Wait for a reply in bounded time, without counting the stalls of our own event loop."""

import asyncio
import time
from typing import Any

# We listen in pieces of this length. A piece that takes longer counts as one: our own loop was late.
_LISTEN_SECONDS = 0.1


async def wait_for_reply(answer: asyncio.Future[Any], seconds: float) -> float | None:
    """Wait for the answer while we listen for `seconds`. Return how many are left, or None if it did not come.

    The answer is not cancelled then.
    """
    while not answer.done():
        if seconds <= 0:
            return None
        began_at = time.monotonic()
        await asyncio.wait((answer,), timeout=min(seconds, _LISTEN_SECONDS))
        seconds -= min(time.monotonic() - began_at, _LISTEN_SECONDS)
    return seconds
