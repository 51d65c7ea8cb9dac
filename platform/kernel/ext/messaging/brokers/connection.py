"""The common part of the connections to all kinds of brokers."""

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import structlog

_log = structlog.get_logger("kernel.ext.messaging")

Take = Callable[[bytes], Awaitable[None]]
# How long started work may delay the end of a connection.
_GRACE_SECONDS = 5.0


class MessageRefused(Exception):
    """The broker refuses the message for good, for instance because it is too large. Says why."""


@dataclass(frozen=True)
class Subscription:
    """The messages that a group receives, and the function that takes them."""

    group: str
    names: Sequence[str]
    take: Take


class OnBroker(NamedTuple):
    """Messages on the broker that a group has not acknowledged."""

    # The message's name; RabbitMQ keeps all names of a group in one queue: "*".
    name: str
    # None: no group has ever subscribed to them.
    group: str | None
    messages: int


class Link(ABC):
    """One connection to a broker, from its opening until it is lost."""

    # FastStream's broker. `Any`, because its classes for the brokers have no common type with the names used here.
    _broker: Any

    def __init__(
        self, url: str, prefix: str, prefetch: int, lease_seconds: float, subscriptions: Sequence[Subscription]
    ) -> None:
        self._url, self._prefix, self._prefetch, self._lease = url, prefix, prefetch, lease_seconds
        self._subscriptions = subscriptions
        self._closing = asyncio.Event()
        self._taking: dict[Any, asyncio.Task[Any] | None] = {}

    @abstractmethod
    async def open(self) -> None:
        """Connect, create missing streams and queues, and start to receive."""

    @abstractmethod
    async def send(self, body: bytes, name: str, message_id: str) -> None:
        """Return when the message is stored. Raises MessageRefused where trying again cannot help."""

    @abstractmethod
    async def ping(self) -> None:
        """Ask the broker for an answer."""

    @abstractmethod
    async def tend(self) -> None:
        """Verify that streams and queues still exist, and move or delete messages that are due."""

    @abstractmethod
    async def backlog(self, names: Collection[str], groups: Collection[str]) -> list[OnBroker]:
        """Count the messages of these names on the broker; on RabbitMQ, in the queues of these groups."""

    @abstractmethod
    async def _disconnect(self) -> None:
        """Close the connection itself."""

    @abstractmethod
    async def _attempt(self, message: Any) -> int:
        """Return how often the message was delivered, this time included, as far as the broker knows."""

    @abstractmethod
    async def _again(self, message: Any, pause_seconds: float) -> None:
        """Let the broker deliver the message again."""

    @abstractmethod
    async def _keep(self, message: Any) -> None:
        """Extend the lease of the message on the broker, if the broker has one."""

    async def keep_leases(self) -> None:
        """Extend the leases of all messages that are being taken."""
        for message in tuple(self._taking):
            await self._keep(message)

    async def close(self) -> None:
        """Stop receiving, wait for started work, and disconnect, in bounded time even if the broker is dead."""
        self._closing.set()
        for step, seconds in ((self._leave, _GRACE_SECONDS + 1), (self._disconnect, 1.0)):
            with suppress(Exception):
                async with asyncio.timeout(seconds):
                    await step()
        for task in filter(None, self._taking.values()):
            task.cancel()

    async def _leave(self) -> None:
        readers = {task for subscriber in self._broker.subscribers for task in getattr(subscriber, "tasks", ())}
        await self._stop_receiving()
        # They are cancelled, but on Python 3.11 the client's `asyncio.wait_for` may swallow that. FastStream would then
        # treat the end of the connection as an error and check again after five seconds.
        while readers:
            for reader in readers:
                reader.cancel()
            _, readers = await asyncio.wait(readers, timeout=0.1)

    async def _stop_receiving(self) -> None:
        await self._broker.stop()

    def _options(self) -> dict[str, Any]:
        """Return options of FastStream: raw bytes, no injection, manual acknowledgement, no log of its own."""
        from faststream import AckPolicy  # noqa: PLC0415  # loaded where there is a broker

        return {
            "decoder": _as_it_is,
            "apply_types": False,
            "ack_policy": AckPolicy.MANUAL,
            "graceful_timeout": _GRACE_SECONDS,
            "logger": None,
        }

    def _taker(self, take: Take) -> Callable[[Any], Awaitable[None]]:
        return partial(self._deliver, take)

    async def _deliver(self, take: Take, message: Any) -> None:
        self._taking[message] = asyncio.current_task()
        try:
            await take(message.body)
        except Exception as error:  # noqa: BLE001  # after any error the message is delivered again
            pause = min(self._lease, self._lease / 30 * 2 ** min(await self._attempt(message) - 1, 10))
            pause *= random.uniform(0.5, 1)  # noqa: S311  # jitter, not a secret
            _log.warning(
                "message not taken",
                message_id=message.correlation_id,
                pause_seconds=round(pause, 1),
                reason=repr(error),
            )
            await self._again(message, pause)
        else:
            await message.ack()
        finally:
            del self._taking[message]


async def _as_it_is(message: Any) -> Any:
    return message
