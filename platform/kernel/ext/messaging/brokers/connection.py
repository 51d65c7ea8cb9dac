"""What the connections to all kinds of brokers have in common."""

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
# How long a message that is being taken may hold up the end of a connection.
_GRACE_SECONDS = 5.0


class Refused(Exception):
    """The broker will never take the message, for instance because it is too large; says why."""


@dataclass(frozen=True)
class Subscription:
    """Which messages a group takes, and what takes them."""

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
    """One connection to a broker, from its opening until it is lost; then another takes its place."""

    # FastStream's broker. `Any`: its classes for the brokers have no common type that says what we use.
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
        """Connect, make what is missing on the broker, and begin to receive."""

    @abstractmethod
    async def send(self, body: bytes, name: str, message_id: str) -> None:
        """Return when the message is stored. Raises Refused where trying again cannot help."""

    @abstractmethod
    async def ping(self) -> None:
        """Ask the broker for an answer."""

    @abstractmethod
    async def tend(self) -> None:
        """See that all we need is still on the broker, and move or remove what has become due there."""

    @abstractmethod
    async def backlog(self, names: Collection[str], groups: Collection[str]) -> list[OnBroker]:
        """Count what waits on the broker: messages of these names; on RabbitMQ, in the queues of these groups."""

    @abstractmethod
    async def _disconnect(self) -> None:
        """Close the connection itself."""

    @abstractmethod
    async def _attempt(self, message: Any) -> int:
        """How often the message was delivered, this time included, as far as the broker knows."""

    @abstractmethod
    async def _again(self, message: Any, pause_seconds: float) -> None:
        """Have the message delivered again."""

    @abstractmethod
    async def _keep(self, message: Any) -> None:
        """Tell the broker that the message is still being taken, if it wants to know."""

    async def keep_leases(self) -> None:
        """For all that is being taken."""
        for message in tuple(self._taking):
            await self._keep(message)

    async def close(self) -> None:
        """Receive no more, let what is being taken finish, and disconnect: in bounded time, dead broker or not."""
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
        # They are cancelled, but on Python 3.11 the client's `asyncio.wait_for` may swallow that; FastStream would then
        # take the end of the connection for an error and look again after five seconds.
        while readers:
            for reader in readers:
                reader.cancel()
            _, readers = await asyncio.wait(readers, timeout=0.1)

    async def _stop_receiving(self) -> None:
        await self._broker.stop()

    def _options(self) -> dict[str, Any]:
        """For FastStream: bytes as they came, no injection, no acknowledgement but ours, no log but ours."""
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
        except Exception as error:  # noqa: BLE001  # whatever it was, the message must come again
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
