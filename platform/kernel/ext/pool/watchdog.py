"""Detect a silent database: probe it after a request has waited, until it answers again."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import Context

import structlog

from kernel.wait import wait_for_reply

_log = structlog.get_logger("kernel.database")

_LOOK_SECONDS = 0.25
# So long a connection may be in use before we ask whether anybody is there, and so long the answer may take.
_LATE_SECONDS = 1.0
_ANSWER_SECONDS = 1.0


class ConnectionWatchdog:
    """Tells a slow statement, which may take its time, from a database that would be waited for in vain.

    A command timeout cannot: short enough for the one, it ends the other. While a connection is late we make a new one
    on the side; if nothing comes back, all that is under way is given up, and what comes is refused at once until
    somebody answers. An answer is also "too many clients", and so is a refusal: who gets one need not be told.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[None]],
        oldest: Callable[[], float | None],
        give_up: Callable[[float], bool],
    ) -> None:
        """`connect` makes a connection and ends it; `oldest`: since when one has been in use for longest (monotonic).

        `give_up` ends all that are in use, unless one has been given back well since the moment that it is told.
        """
        self.is_silent = False
        self._connect, self._oldest, self._give_up = connect, oldest, give_up
        self._asked_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def follow(self) -> None:
        """To be called when a connection is taken: look from now on, while any is in use."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look, context=Context())

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._timer = self._task = None

    def doubt(self) -> None:
        """To be called when to connect has taken too long: it may as well be this process that was late."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._ask(), context=Context())

    def _look(self) -> None:
        self._timer = None
        oldest = self._oldest()
        if oldest is None:
            return
        now = time.monotonic()
        if now - oldest > _LATE_SECONDS < now - self._asked_at:
            self.doubt()
        self.follow()

    async def _ask(self) -> None:
        self._asked_at = time.monotonic()
        # If others have had their answers meanwhile, it is only the way to one connection.
        if not await self._answers(_ANSWER_SECONDS) and self._give_up(self._asked_at):
            self.is_silent = True
            _log.error("the database has stopped answering")
            self._task = asyncio.get_running_loop().create_task(self._until_it_answers())

    async def _until_it_answers(self) -> None:
        """Ask again and again, without waiting for what was asked before: that may have been lost on the way."""
        asked: set[asyncio.Task[bool]] = set()
        try:
            while not any(task.done() and task.result() for task in asked):
                asked = {task for task in asked if not task.done()}
                asked.add(asyncio.create_task(self._answers(2 * _ANSWER_SECONDS)))
                await asyncio.wait(asked, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in asked:
                task.cancel()
        self.is_silent = False
        _log.info("the database answers again")

    async def _answers(self, seconds: float) -> bool:
        """Return whether an answer arrives within this many seconds of listening."""
        asking = asyncio.ensure_future(self._connect())
        try:
            while (left := await wait_for_reply(asking, seconds)) is not None:
                if not isinstance(asking.exception(), TimeoutError):  # any other is an answer
                    return True
                asking, seconds = (
                    asyncio.ensure_future(self._connect()),
                    left,
                )  # we may not have listened
            return False
        finally:
            asking.cancel()
