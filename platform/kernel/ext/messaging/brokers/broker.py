"""Send and receive messages through a broker, which stores them before `send` returns."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from importlib import import_module

import structlog

from kernel.ext.messaging.brokers.connection import Link, MessageRefused, OnBroker, Subscription
from kernel.ext.messaging.outages import Outage
from kernel.wait import wait_for_reply

_log = structlog.get_logger("kernel.ext.messaging")

# Imported when needed, because FastStream and a client are slow to import.
_KINDS = {"nats": "nats", "tls": "nats", "amqp": "rabbit", "amqps": "rabbit", "redis": "redis", "rediss": "redis"}
_OPEN_SECONDS = 10.0
_MAX_PAUSE_SECONDS = 10.0
# Below one second: a readiness probe waits for the answer.
_CHECK_SECONDS = 0.9
# Between looks at the connection, and between looks at all that must exist on the broker.
_LOOK_SECONDS = 1.0
_TEND_EVERY = 10
_LET_FINISH_SECONDS = 2.0
# The file of each kind of broker.
_FILES = {"nats": "nats", "rabbit": "rabbitmq", "redis": "redis_streams"}


class BrokerUnavailable(Outage):
    """The broker did not confirm a message, or there is no connection. Says why."""


class Broker:
    """A connection to NATS JetStream, RabbitMQ or Redis Streams, depending on the URL.

    Each message that `send` has stored is delivered at least once to each group that subscribes to its name. A broken
    connection is replaced, and missing streams and queues are created again.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "messages",
        send_timeout_seconds: float = 5,
        prefetch: int = 20,
        lease_seconds: float = 30,
    ) -> None:
        """Describe a connection, which `start` opens.

        `prefetch`: the number of messages of a name that are taken at once. `lease_seconds`: the time after which a
        message of a dead process is delivered to another one, and the longest pause before it is delivered again after
        a failure. Raises ValueError for a URL of another kind.
        """
        kind = _KINDS.get(url.partition("://")[0])
        if kind is None:
            raise ValueError(f"MESSAGING_BROKER_URL must begin with one of {', '.join(f'{k}://' for k in _KINDS)}")
        self._kind, self._url, self._prefix, self._prefetch = kind, url, prefix, prefetch
        self._send_timeout, self._lease = send_timeout_seconds, lease_seconds
        self._subscriptions: list[Subscription] = []
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._doubted = asyncio.Event()
        self._stopping = asyncio.Event()

    def receive(self, group: str, names: Collection[str], take: Callable[[bytes], Awaitable[None]]) -> None:
        """Pass messages of these names to `take`, each to one process of the group; call it before `start`.

        A message is done when `take` returns. If it raises, the message is delivered again after a pause, to any
        process.
        """
        self._subscriptions.append(Subscription(group, tuple(names), take))

    async def start(self) -> None:
        """Connect. If the broker does not answer, return and repeat the attempt until `stop`."""
        self._stopping.clear()
        tried = asyncio.Event()
        self._task = asyncio.create_task(self._stay_connected(tried))
        await tried.wait()

    async def stop(self) -> None:
        """Wait a bounded time for started work, then disconnect."""
        self._stopping.set()
        self._doubted.set()
        task, self._task = self._task, None
        if task is not None:
            # Cancelling immediately would cost the client its connection and the started work.
            await asyncio.wait({task}, timeout=_LET_FINISH_SECONDS if self._link is not None else 0)
            task.cancel()
            await asyncio.wait({task})
        if self._closing is not None:
            await self._closing

    async def send(self, body: bytes, name: str, message_id: str) -> None:
        """Return when the broker has stored the message.

        Raises BrokerUnavailable in bounded time, after which the message may be stored or not. Raises MessageRefused
        for a message that this broker never accepts.
        """
        link = self._connected()
        try:
            async with asyncio.timeout(self._send_timeout):
                await link.send(body, name, message_id)
        except MessageRefused:
            self._doubted.set()
            raise
        except Exception as error:
            self._doubted.set()
            raise BrokerUnavailable(f"The broker has not confirmed a message {name}: {error!r}") from error

    @property
    def identity(self) -> tuple[str, str]:
        """The kind of the broker and the prefix, which must be equal for a publisher and its subscribers."""
        return self._kind, self._prefix

    def is_connected(self) -> bool:
        """Return True if there is a connection, as far as is known."""
        return self._link is not None

    async def check(self) -> None:
        """Raise BrokerUnavailable if the broker does not answer within a second."""
        link = self._connected()
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await link.ping()
        except Exception as error:
            self._doubted.set()
            raise BrokerUnavailable(f"The broker does not answer: {error!r}") from error

    async def backlog(self, names: Collection[str], groups: Collection[str]) -> list[OnBroker]:
        """Count the messages on the broker, by group. Raises BrokerUnavailable."""
        link = self._connected()
        try:
            async with asyncio.timeout(self._send_timeout):
                return await link.backlog(names, groups)
        except Exception as error:
            raise BrokerUnavailable(f"The broker does not report its backlog: {error!r}") from error

    def _connected(self) -> Link:
        if self._link is None:
            raise BrokerUnavailable("There is no connection to the broker (MESSAGING_BROKER_URL); it is being tried.")
        return self._link

    async def _stay_connected(self, tried: asyncio.Event) -> None:
        opened: type[Link] = import_module(f"kernel.ext.messaging.brokers.{_FILES[self._kind]}").Opened
        pause = 0.0
        while not self._stopping.is_set():
            link = opened(self._url, self._prefix, self._prefetch, self._lease, self._subscriptions)
            try:
                async with asyncio.timeout(_OPEN_SECONDS):
                    await link.open()
                self._link, pause = link, 0.0
                _log.info("connected to the broker", kind=self._kind)
                tried.set()
                await self._watch(link)
            except Exception as error:  # noqa: BLE001  # a new connection is tried after any error
                _log.warning("no connection to the broker", kind=self._kind, reason=repr(error))
            finally:
                self._link = None
                tried.set()
                self._closing = asyncio.create_task(link.close())
                await asyncio.shield(self._closing)  # closing takes a bounded time and must be complete
            pause = min(_MAX_PAUSE_SECONDS, max(0.25, pause * 2))
            with suppress(TimeoutError):  # For jitter, not for a secret.
                await asyncio.wait_for(self._stopping.wait(), pause * random.uniform(0.5, 1))  # noqa: S311

    async def _watch(self, link: Link) -> None:
        """Watch the connection until `stop`. Raises if the connection, or an object on the broker, is lost."""
        looks = 0
        while not self._stopping.is_set():
            self._doubted.clear()
            await self._hear_of(link)
            if looks % _TEND_EVERY == 0:
                async with asyncio.timeout(_OPEN_SECONDS):
                    await link.tend()
            looks += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._doubted.wait(), min(_LOOK_SECONDS, self._lease / 5))

    async def _hear_of(self, link: Link) -> None:
        """Raise TimeoutError if the broker does not answer. Stalls of this event loop do not count."""

        async def answer() -> None:
            await link.ping()
            await link.keep_leases()

        answering = asyncio.create_task(answer())
        try:
            if await wait_for_reply(answering, _CHECK_SECONDS * 2) is None:
                raise TimeoutError
            await answering
        finally:
            answering.cancel()
