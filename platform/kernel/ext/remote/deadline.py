"""Until when an answer is wanted: what is asked on the way to it need not take longer."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

# Unix time, not a number of seconds: those that a call waits in a queue would not count, and to end what nobody waits
# for any more is the more important the longer the queues are. The price is that clocks must agree.
HEADER = "X-Deadline"

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


class DeadlinePassed(Exception):
    """Whoever asked has gone."""


@asynccontextmanager
async def until(deadline: float | None) -> AsyncIterator[None]:
    """End the block at this Unix time; what it asks inherits it. Raises DeadlinePassed."""
    if deadline is None:
        yield
        return
    timeout = asyncio.timeout(deadline - time.time())
    token = _deadline.set(deadline)
    try:
        async with timeout:
            yield
    except TimeoutError as error:
        if not timeout.expired():
            raise
        raise DeadlinePassed from error
    finally:
        _deadline.reset(token)


def seconds_left(at_most: float) -> float:
    """How long a call may take that is made now. Not above zero: it need not be made."""
    deadline = _deadline.get()
    return at_most if deadline is None else min(at_most, deadline - time.time())
