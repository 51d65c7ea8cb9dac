"""Detect a silent database: probe it after a request has waited, until it answers again."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import Context

import structlog

from kernel.wait import wait_for_reply

_log = structlog.get_logger("kernel.database")

_LOOK_SECONDS = 0.25
# Seconds for which a connection may be in use before the watchdog probes the database, and seconds for its answer.
_LATE_SECONDS = 1.0
_ANSWER_SECONDS = 1.0


class ConnectionWatchdog:
    """Tells a slow statement from a silent database.

    A command timeout cannot do this: one that is short enough for a silent database would end slow statements. While a
    connection is late, the watchdog opens another one. If the database does not answer there, the watchdog abandons all
    work in progress, and the pool refuses new work until the database answers. "Too many clients" and a refusal are
    answers too: the caller gets them without the watchdog.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[None]],
        oldest: Callable[[], float | None],
        give_up: Callable[[float], bool],
    ) -> None:
        """Probe by `connect`, which opens and closes a connection.

        `oldest` returns the start of the longest use (monotonic). `give_up` ends all uses, unless a connection was
        returned in working order after the time that is its argument.
        """
        self.is_silent = False
        self._connect, self._oldest, self._give_up = connect, oldest, give_up
        self._asked_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def follow(self) -> None:
        """Check from now on, while a connection is in use. Call it when a connection is taken."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look, context=Context())

    def stop(self) -> None:
        """Stop checking."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._timer = self._task = None

    def doubt(self) -> None:
        """Probe the database after connecting has taken too long: this process itself may have been late."""
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
        # If other uses got their answers in the meantime, only the path of one connection is broken.
        if not await self._answers(_ANSWER_SECONDS) and self._give_up(self._asked_at):
            self.is_silent = True
            _log.error("the database has stopped answering")
            self._task = asyncio.get_running_loop().create_task(self._until_it_answers())

    async def _until_it_answers(self) -> None:
        """Repeat the probe without waiting for earlier ones, which may have been lost on the way."""
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
        """Return whether an answer arrives within this many seconds in which the event loop could receive it."""
        asking = asyncio.ensure_future(self._connect())
        try:
            while (left := await wait_for_reply(asking, seconds)) is not None:
                if not isinstance(asking.exception(), TimeoutError):  # Any other error is an answer.
                    return True
                asking, seconds = (
                    asyncio.ensure_future(self._connect()),
                    left,
                )  # The event loop may have been blocked.
            return False
        finally:
            asking.cancel()
