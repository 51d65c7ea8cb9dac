"""Pass the deadline of a call on to the calls that it makes."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

# Unix time instead of a number of seconds, so that the time in a queue counts. The clocks of the processes must agree
# (INTERNAL_CLOCK_LEEWAY_SECONDS).
HEADER = "X-Deadline"

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


class DeadlinePassed(Exception):
    """The deadline of the call has passed."""


@asynccontextmanager
async def until(deadline: float | None) -> AsyncIterator[None]:
    """End the block at this Unix time, which calls made in it inherit. Raises DeadlinePassed."""
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
    """Return how long a call that starts now may take; zero or less if the deadline has passed."""
    deadline = _deadline.get()
    return at_most if deadline is None else min(at_most, deadline - time.time())
