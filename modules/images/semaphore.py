"""A semaphore that serves waiting callers round robin."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class TooManyWaiting(Exception):
    """Too many requests wait already."""


class RoundRobinSemaphore:
    """Lets `limit` requests run at a time; `max_waiting` more may wait.

    When too many wait, the caller with the most waiting requests loses its newest one. So a caller that sends many
    requests delays and displaces mostly its own.
    """

    def __init__(self, limit: int, max_waiting: int) -> None:
        self._free = limit
        self._max_waiting = max_waiting
        # By caller; the first caller is served next.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def slot(self, caller: str) -> AsyncIterator[None]:
        """Wait for a slot, and free it at the end of the block. Raises TooManyWaiting."""
        await self._acquire(caller)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, caller: str) -> None:
        if self._free:
            self._free -= 1
            return
        self._make_room(caller)
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            self._remove(caller, waiter)
            if not waiter.cancelled() and waiter.exception() is None:  # it got the slot just before the cancellation
                self._release()
            raise

    def _make_room(self, caller: str) -> None:
        """If too many requests wait, refuse one of a caller with more waiting requests, or raise TooManyWaiting."""
        if sum(map(len, self._waiting.values())) < self._max_waiting:
            return
        busiest = max(self._waiting, key=lambda one: len(self._waiting[one]), default=caller)
        if len(self._waiting.get(busiest, ())) <= len(self._waiting.get(caller, ())) + 1:
            raise TooManyWaiting
        newest = self._waiting[busiest][-1]
        self._remove(busiest, newest)
        newest.set_exception(TooManyWaiting())

    def _release(self) -> None:
        if not self._waiting:
            self._free += 1
            return
        caller, waiters = next(iter(self._waiting.items()))
        waiter = waiters[0]
        self._waiting.move_to_end(caller)
        self._remove(caller, waiter)
        waiter.set_result(None)

    def _remove(self, caller: str, waiter: "asyncio.Future[None]") -> None:
        waiters = self._waiting.get(caller, deque())
        if waiter in waiters:
            waiters.remove(waiter)
        if not waiters:
            self._waiting.pop(caller, None)
