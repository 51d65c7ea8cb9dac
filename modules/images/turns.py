"""Fair turns: of the requests that wait, those of different callers are served in alternation."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class NoTurn(Exception):
    """Too many requests wait already."""


class FairTurns:
    """Lets `at_once` requests in at a time; `waiting` more may wait.

    When too many wait, the caller with the most waiting requests loses its newest one. So a caller that sends many
    requests delays and displaces its own requests, and hardly those of other callers.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self._free = at_once
        self._most_waiting = waiting
        # By caller; the first caller has the next turn.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """Wait for a turn, and end it with the block. Raises NoTurn."""
        await self._begin(caller)
        try:
            yield
        finally:
            self._end()

    async def _begin(self, caller: str) -> None:
        if self._free:
            self._free -= 1
            return
        self._make_room(caller)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._forget(caller, turn)
            if not turn.cancelled() and turn.exception() is None:  # the turn came just before the cancellation
                self._end()
            raise

    def _make_room(self, caller: str) -> None:
        """Raise NoTurn, or refuse a request of a caller with more waiting requests, if too many wait."""
        if sum(map(len, self._waiting.values())) < self._most_waiting:
            return
        busiest = max(self._waiting, key=lambda one: len(self._waiting[one]), default=caller)
        if len(self._waiting.get(busiest, ())) <= len(self._waiting.get(caller, ())) + 1:
            raise NoTurn
        newest = self._waiting[busiest][-1]
        self._forget(busiest, newest)
        newest.set_exception(NoTurn())

    def _end(self) -> None:
        if not self._waiting:
            self._free += 1
            return
        caller, turns = next(iter(self._waiting.items()))
        turn = turns[0]
        self._waiting.move_to_end(caller)
        self._forget(caller, turn)
        turn.set_result(None)

    def _forget(self, caller: str, turn: "asyncio.Future[None]") -> None:
        turns = self._waiting.get(caller, deque())
        if turn in turns:
            turns.remove(turn)
        if not turns:
            self._waiting.pop(caller, None)
