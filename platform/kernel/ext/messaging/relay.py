"""The relay: claims messages in the outboxes of this process and delivers each at least once.

Any number of processes may run it. The process that claims a row holds it for the time of a lease, by the clock of the
database. After the lease another process may claim the row, and the first one can no longer complete it.
"""

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal

import structlog
from structlog.contextvars import bound_contextvars

from kernel.ext.messaging.envelope import traced
from kernel.ext.messaging.outages import Failed, Outage
from kernel.ext.messaging.outbox import AttemptLimits, Delivery, Outbox, Wanted
from kernel.ext.messaging.settings import MessagingSettings
from kernel.ext.messaging.tables import State
from kernel.tracing import Tracer

_log = structlog.get_logger("kernel.ext.messaging")
_CLAIM_SECONDS = 5.0
_FAILED_CLAIM_SECONDS = 1.0
_LAST_WORDS_SECONDS = 2.0
# With notifications of PostgreSQL, polling only finds rows of processes that have died.
_POLLS_SAVED = 10
# Places that are reserved for subscribers without a delivery.
_RESERVED = 2
# The longest pause of a subscriber in an outage; then one message is tried.
_LONGEST_REST_SECONDS = 30.0


@dataclass(frozen=True)
class Target:
    """A place to which messages are delivered: what it can read, and how it is reached."""

    wanted: Wanted
    # Raises Outage where trying again can help. Bounded in time.
    deliver: Callable[[Delivery], Awaitable[None]]
    # Whether a delivery can be tried now. Otherwise rows stay, and no attempt counts.
    is_open: Callable[[], bool] = lambda: True
    # The largest number of simultaneous deliveries.
    at_once: int = sys.maxsize
    # Whether the message leaves this process: to a broker, or to another process.
    sends: bool = False


@dataclass
class _Rest:
    """The pause of one subscriber after an outage, which doubles until a delivery is answered."""

    seconds: float
    # By time.monotonic. Afterwards one message at a time is tried.
    until: float


class Relay:
    """Delivers the rows of each outbox to its targets. Rows of other subscribers stay."""

    def __init__(
        self, routes: Mapping[Outbox, Mapping[str, Target]], settings: MessagingSettings, tracer: Tracer
    ) -> None:
        self._routes = routes
        self._tracer = tracer
        self._settings = settings
        self._limits = AttemptLimits(settings.lease_seconds, settings.max_attempts)
        self._free = settings.concurrency
        self._has_place = asyncio.Event()
        # The number of deliveries under way, by outbox and subscriber.
        self._in_hand: Counter[tuple[str, str]] = Counter()
        # Outboxes that may have more due rows, and had no place for them.
        self._held_back: set[Outbox] = set()
        self._rests: dict[tuple[str, str], _Rest] = {}
        self._most = max(1, settings.concurrency // 2)
        self._running: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    @asynccontextmanager
    async def running(self, *others: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """Deliver during the block, with `others` running beside it. At its end, started deliveries may finish."""
        loops = {asyncio.create_task(self._follow(outbox)) for outbox in self._routes}
        beside = {asyncio.ensure_future(other()) for other in others}
        try:
            yield
        finally:
            self._is_stopping = True
            self._has_place.set()
            for outbox in self._routes:
                outbox.is_due.set()
            await _end(beside, 0)
            ends_at = time.monotonic() + self._settings.stop_seconds
            # A row that was just claimed must not wait for the end of its lease.
            await _end(loops, self._settings.stop_seconds)
            await _end(self._running, max(0, ends_at - time.monotonic()))

    async def _follow(self, outbox: Outbox) -> None:
        """Claim due rows while there are any and places are free; then wait for a notification or the next poll."""
        most = 1
        while not self._is_stopping:
            outbox.is_due.clear()
            able, places = self._able(outbox, most)
            if not able:
                await self._wait_for_place()
                continue
            taken = await self._take(outbox, able, places)
            # An outbox without due rows reserves one place only at the next look.
            most = min(self._most, 2 * places) if taken == places else 1
            if taken < places:
                poll = self._settings.poll_seconds * (_POLLS_SAVED if outbox.is_notified else 1)
                await _wait_until_due(outbox, poll * random.uniform(0.8, 1))  # noqa: S311  # jitter

    def _able(self, outbox: Outbox, most: int) -> tuple[dict[str, Wanted], int]:
        """Return the subscribers that may get messages now, and how many at once."""
        has_room = self._free > _RESERVED
        able: dict[str, Wanted] = {}
        room = 0
        for name, target in self._routes[outbox].items():
            rest = self._rests.get((outbox.module, name))
            if rest is not None and time.monotonic() < rest.until:
                continue
            most_at_once = min(self._most if has_room and rest is None else 1, target.at_once)
            left = most_at_once - self._in_hand[outbox.module, name]
            if left <= 0:
                self._held_back.add(outbox)
            elif self._free and target.is_open():
                able[name] = target.wanted
                room += left
        return able, min(most, room, self._free - _RESERVED if has_room else 1)

    async def _wait_for_place(self) -> None:
        self._has_place.clear()
        with suppress(TimeoutError):  # a closed target opens without a notification
            async with asyncio.timeout(self._settings.poll_seconds):
                await self._has_place.wait()

    async def _take(self, outbox: Outbox, able: Mapping[str, Wanted], places: int) -> int:
        """Claim rows and start their deliveries. Return how many were claimed."""
        self._free -= places
        claimed: list[Delivery] = []
        is_down = False
        try:
            async with asyncio.timeout(_CLAIM_SECONDS):
                claimed = await outbox.claim(able, places, self._limits)
        except Exception as error:  # noqa: BLE001  # the next look tries again
            _log.warning("messages cannot be claimed", module=outbox.module, reason=repr(error))
            is_down = True
        finally:
            begun = [delivery for delivery in claimed if self._is_alive(delivery)]
            self._release(places - len(begun))
        for delivery in begun:
            self._begin(outbox, delivery)
        if is_down:
            await asyncio.sleep(_FAILED_CLAIM_SECONDS)
        return len(claimed)

    def _is_alive(self, delivery: Delivery) -> bool:
        if delivery.state is State.ABANDONED:
            _log.error("message abandoned", **_described(delivery), reason="the process ended in each attempt")
        return delivery.state is State.PROCESSING

    def _begin(self, outbox: Outbox, delivery: Delivery) -> None:
        self._in_hand[outbox.module, delivery.subscriber] += 1
        task = asyncio.create_task(self._deliver(outbox, delivery))
        self._running.add(task)
        task.add_done_callback(lambda task: self._ended(outbox, delivery, task))

    def _ended(self, outbox: Outbox, delivery: Delivery, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._in_hand[outbox.module, delivery.subscriber] -= 1
        self._release(1)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The lease runs out, and the message is delivered again: the inbox knows whether it was handled.
            _log.warning("what became of a message could not be noted", **_described(delivery), reason=repr(error))

    def _release(self, places: int) -> None:
        self._free += places
        if places:
            self._has_place.set()
            for outbox in self._held_back:
                outbox.is_due.set()
            self._held_back.clear()

    async def _deliver(self, outbox: Outbox, delivery: Delivery) -> None:
        """Deliver one message; of a key, all waiting messages, one after the other."""
        target = self._routes[outbox][delivery.subscriber]
        following = [delivery]
        while following:
            [one] = following
            is_done = await self._attempt(outbox, one, target)
            if not is_done or one.envelope.key is None or self._is_stopping or not target.is_open():
                return
            following = await outbox.claim_next(one, target.wanted, self._limits)
            following = [next_ for next_ in following if self._is_alive(next_)]

    async def _attempt(self, outbox: Outbox, delivery: Delivery, target: Target) -> bool:
        """Return whether it was delivered; other results are recorded."""
        module = outbox.module if target.sends else delivery.subscriber.partition(".")[0]
        with bound_contextvars(**delivery.envelope.context, message_id=delivery.envelope.id, module=module):
            started_at = time.perf_counter()
            try:
                verb: Literal["process", "send"] = "send" if target.sends else "process"
                with traced(self._tracer, verb, delivery.envelope, delivery.subscriber):
                    await target.deliver(delivery)
            except (Exception, asyncio.CancelledError) as error:  # a handler may fail in any way
                if _is_cancelled():
                    with suppress(Exception):
                        async with asyncio.timeout(_LAST_WORDS_SECONDS):
                            await outbox.give_back(delivery, "stopped before it was done", 0)
                    raise asyncio.CancelledError from error
                await self._failed(outbox, delivery, error)
                return False
            self._rests.pop((outbox.module, delivery.subscriber), None)
            is_ours = await outbox.complete(delivery)
            seconds = round(time.perf_counter() - started_at, 4)
            _log.debug("message delivered", **_described(delivery), seconds=seconds, is_ours=is_ours)
            return True

    async def _failed(self, outbox: Outbox, delivery: Delivery, error: BaseException) -> None:
        settings = self._settings
        if isinstance(error, Outage):
            pause = self._rest(outbox.module, delivery.subscriber)
            _log.warning(
                "message waits for the end of an outage",
                **_described(delivery),
                reason=str(error),
                again_in_seconds=round(pause, 2),
            )
            await outbox.give_back(delivery, str(error), pause)
        else:
            self._rests.pop((outbox.module, delivery.subscriber), None)
            reason = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
            if delivery.attempt >= settings.max_attempts:
                _log.error("message abandoned", **_described(delivery), reason=reason, exc_info=error)
                await outbox.fail(delivery, reason, None)
                return
            pause = min(settings.max_backoff_seconds, settings.backoff_seconds * 2 ** min(delivery.attempt - 1, 30))
            pause *= random.uniform(0.5, 1)  # noqa: S311  # jitter, not a secret
            _log.warning(
                "message failed",
                **_described(delivery),
                reason=reason,
                again_in_seconds=round(pause, 2),
                exc_info=error,
            )
            await outbox.fail(delivery, reason, pause)
        asyncio.get_running_loop().call_later(pause, outbox.is_due.set)

    def _rest(self, module: str, subscriber: str) -> float:
        """Pause a subscriber after an outage; return the seconds. Deliveries that were under way count once."""
        settings, now = self._settings, time.monotonic()
        rest = self._rests.get((module, subscriber))
        if rest is None:
            rest = self._rests[module, subscriber] = _Rest(max(settings.backoff_seconds, settings.poll_seconds), now)
        elif now >= rest.until:
            rest.seconds *= 2
        if now >= rest.until:
            rest.seconds = min(rest.seconds, settings.max_backoff_seconds, _LONGEST_REST_SECONDS)
            rest.until = now + rest.seconds * random.uniform(0.5, 1)  # noqa: S311  # jitter, not a secret
        return rest.until - now


def _is_cancelled() -> bool:
    """Return True if this task is cancelled, not something that it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _end(tasks: Collection[asyncio.Future[None]], seconds: float) -> None:
    """Wait for the tasks, cancel those that are late, and wait a bounded time for their end."""
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=2 * _LAST_WORDS_SECONDS)


async def _wait_until_due(outbox: Outbox, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await outbox.is_due.wait()


def _described(delivery: Delivery) -> dict[str, object]:
    envelope = delivery.envelope
    return {
        "name": envelope.name,
        "version": envelope.version,
        "subscriber": delivery.subscriber,
        "attempt": delivery.attempt,
    }
