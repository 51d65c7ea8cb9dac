"""The relay: takes messages from the outboxes of this process's modules and delivers them, at least once each.

Any number of processes may run it. Whoever claims a row has it to himself for the time of a lease, by the database's
clock; an attempt that was overtaken cannot complete it any more.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from structlog.contextvars import bound_contextvars

from kernel.messaging.outbox import BROKER, Delivery, Outbox
from kernel.messaging.tables import State
from kernel.settings import MessagingSettings

_log = structlog.get_logger("kernel.messaging")
_FAILED_CLAIM_SECONDS = 1.0

Deliver = Callable[[Delivery], Awaitable[None]]


@dataclass(frozen=True)
class Target:
    """Where a message can be delivered: the newest version that is understood there (None: any), and how."""

    newest: int | None
    deliver: Deliver
    # Whether it makes sense to try; what cannot be delivered now stays where it is, and no attempt is counted.
    is_open: Callable[[], bool] = lambda: True


class Relay:
    """Delivers what is in `outboxes` to `targets`, by subscriber. Others' messages stay where they are."""

    def __init__(self, outboxes: Sequence[Outbox], targets: Mapping[str, Target], settings: MessagingSettings) -> None:
        self._outboxes = outboxes
        self._targets = targets
        self._settings = settings
        self._places = asyncio.Semaphore(settings.concurrency)
        # How many each subscriber has of them. It gets no more once it has this many, so that a slow one leaves some.
        self._in_hand: Counter[str] = Counter()
        self._most = settings.concurrency // 2
        self._running: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    @asynccontextmanager
    async def running(self, *others: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """Deliver during the block, with `others` running beside it. At its end, what has begun may finish in time."""
        loops = {asyncio.create_task(self._follow(outbox)) for outbox in self._outboxes}
        beside = {asyncio.ensure_future(other()) for other in others}
        try:
            yield
        finally:
            self._is_stopping = True
            for outbox in self._outboxes:
                outbox.is_due.set()
            await _end(beside, 0)
            await _end(loops, self._settings.stop_seconds)  # what it has just claimed must not wait for its lease
            await _end(self._running, self._settings.stop_seconds)

    async def _follow(self, outbox: Outbox) -> None:
        """Take what is due, as long as there is any and a place is free; then wait to be told, or for the next look."""
        while not self._is_stopping:
            outbox.is_due.clear()
            places = await self._take_places()
            claimed: list[Delivery] = []
            try:
                claimed = await self._claim(outbox, places)
            except Exception as error:  # noqa: BLE001  # whatever ails the database, the next look may find it well
                _log.warning("messages cannot be claimed", module=outbox.module, reason=repr(error))
                await asyncio.sleep(_FAILED_CLAIM_SECONDS)
            finally:
                for _ in range(places - len(claimed)):
                    self._places.release()
            for delivery in claimed:
                self._begin(outbox, delivery)
            if len(claimed) < places:
                await _told(outbox, self._settings.poll_seconds * random.uniform(0.8, 1.0))  # noqa: S311  # jitter

    async def _take_places(self) -> int:
        """At least one, and at most as many as one claim may take."""
        await self._places.acquire()
        places = 1
        while places < self._most and not self._places.locked():
            await self._places.acquire()
            places += 1
        return places

    async def _claim(self, outbox: Outbox, places: int) -> list[Delivery]:
        able = {
            name: one.newest
            for name, one in self._targets.items()
            if self._in_hand[name] < self._most and one.is_open()
        }
        if not able:
            return []
        settings = self._settings
        claimed = await outbox.claim(
            able, limit=places, seconds=settings.lease_seconds, max_attempts=settings.max_attempts
        )
        for delivery in claimed:
            if delivery.state is State.ABANDONED:
                _log.error("message abandoned", **_described(delivery), reason="its process ended each time")
        return [delivery for delivery in claimed if delivery.state is State.PROCESSING]

    def _begin(self, outbox: Outbox, delivery: Delivery) -> None:
        self._in_hand[delivery.subscriber] += 1
        task = asyncio.create_task(self._attempt(outbox, delivery))
        self._running.add(task)
        task.add_done_callback(lambda task: self._ended(outbox, delivery, task))

    def _ended(self, outbox: Outbox, delivery: Delivery, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if delivery.envelope.key is not None or self._in_hand[delivery.subscriber] >= self._most:
            outbox.is_due.set()  # the next of its key, or more for a subscriber that had as many as it may
        self._in_hand[delivery.subscriber] -= 1
        self._places.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            # The lease runs out, and the message is delivered again: the inbox knows whether it was handled.
            _log.warning("what became of a message could not be noted", **_described(delivery), reason=repr(error))

    async def _attempt(self, outbox: Outbox, delivery: Delivery) -> None:
        with bound_contextvars(**delivery.envelope.context, message_id=delivery.envelope.id):
            started_at = time.perf_counter()
            try:
                async with asyncio.timeout(self._settings.handler_timeout_seconds):
                    await self._targets[delivery.subscriber].deliver(delivery)
            except Exception as error:  # noqa: BLE001  # a handler may fail in any way
                await self._failed(outbox, delivery, error)
            except asyncio.CancelledError:
                await asyncio.shield(outbox.fail(delivery, "stopped before it was done", 0))
                raise
            else:
                is_ours = await outbox.complete(delivery)
                seconds = round(time.perf_counter() - started_at, 4)
                _log.debug("message delivered", **_described(delivery), seconds=seconds, is_ours=is_ours)

    async def _failed(self, outbox: Outbox, delivery: Delivery, error: Exception) -> None:
        settings = self._settings
        reason = f"{type(error).__name__}: {error}"
        if delivery.attempt >= settings.max_attempts and delivery.subscriber != BROKER:
            _log.error("message abandoned", **_described(delivery), exc_info=error)
            await outbox.fail(delivery, reason, None)
            return
        ceiling = min(settings.max_backoff_seconds, settings.backoff_seconds * 2 ** (delivery.attempt - 1))
        pause = ceiling * random.uniform(0.5, 1)  # noqa: S311  # jitter, not a secret
        # A broker's reason is one sentence; a handler's is where in its code it failed.
        why = {"reason": reason} if delivery.subscriber == BROKER else {"exc_info": error}
        _log.warning("message failed", **_described(delivery), **why, again_in_seconds=round(pause, 2))
        await outbox.fail(delivery, reason, pause)
        asyncio.get_running_loop().call_later(pause, outbox.is_due.set)


async def _end(tasks: Collection[asyncio.Future[None]], seconds: float) -> None:
    """Let them end; cancel those that are late."""
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


async def _told(outbox: Outbox, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await outbox.is_due.wait()
    except TimeoutError:
        pass


def _described(delivery: Delivery) -> dict[str, object]:
    envelope = delivery.envelope
    return {
        "name": envelope.name,
        "version": envelope.version,
        "subscriber": delivery.subscriber,
        "attempt": delivery.attempt,
    }
