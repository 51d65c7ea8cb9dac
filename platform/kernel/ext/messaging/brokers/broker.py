"""Messages to and from other places: a broker keeps them before `send` returns, until they are taken."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from importlib import import_module

import structlog

from kernel.ext.messaging.brokers.connection import Link, OnBroker, Refused, Subscription
from kernel.ext.messaging.outages import Outage
from kernel.wait import wait_for_reply

_log = structlog.get_logger("kernel.ext.messaging")

# Loaded when needed: who uses no broker does not pay for FastStream and a client.
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
    """The broker did not confirm, or there is no connection to it; says why."""


class Broker:
    """The way to modules in other processes, by NATS JetStream, RabbitMQ or Redis Streams; the URL says which.

    At least once: what `send` returned for is given to every group of its name. A broken connection is given up
    and opened anew, with all that is needed on the broker; nobody has to restart.
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
        """`prefetch`: how many messages of a name are taken at once. `lease_seconds`: how long after its process died
        a message is delivered to another one, and the longest pause before it is delivered again after a failure.
        Raises ValueError for a URL of another kind.
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
        """Give messages of these names to `take`, each to one process of the group; call it before `start`.

        A message is done when `take` returns. When it raises, the message comes again after a pause, here or elsewhere.
        """
        self._subscriptions.append(Subscription(group, tuple(names), take))

    async def start(self) -> None:
        """Connect. Returns also when the broker does not answer: it is tried again until `stop`."""
        self._stopping.clear()
        tried = asyncio.Event()
        self._task = asyncio.create_task(self._stay_connected(tried))
        await tried.wait()

    async def stop(self) -> None:
        """Let what is being taken finish, but not for long; then disconnect."""
        self._stopping.set()
        self._doubted.set()
        task, self._task = self._task, None
        if task is not None:
            # Not at once: what is cancelled in the middle costs a client its connection, and what is being taken.
            await asyncio.wait({task}, timeout=_LET_FINISH_SECONDS if self._link is not None else 0)
            task.cancel()
            await asyncio.wait({task})
        if self._closing is not None:
            await self._closing

    async def send(self, body: bytes, name: str, message_id: str) -> None:
        """Return when the broker has stored the message.

        Raises BrokerUnavailable in bounded time, and then it may have been stored all the same; Refused for a message
        that this broker will never take.
        """
        link = self._connected()
        try:
            async with asyncio.timeout(self._send_timeout):
                await link.send(body, name, message_id)
        except Refused:
            self._doubted.set()
            raise
        except Exception as error:
            self._doubted.set()
            raise BrokerUnavailable(f"The broker has not confirmed a message {name}: {error!r}") from error

    @property
    def identity(self) -> tuple[str, str]:
        """The kind of the broker, and the prefix: what a publisher and its subscribers must have in common."""
        return self._kind, self._prefix

    def is_connected(self) -> bool:
        """Whether there is a connection, as far as we know."""
        return self._link is not None

    async def check(self) -> None:
        """Raises BrokerUnavailable if the broker does not answer within a second."""
        link = self._connected()
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await link.ping()
        except Exception as error:
            self._doubted.set()
            raise BrokerUnavailable(f"The broker does not answer: {error!r}") from error

    async def backlog(self, names: Collection[str], groups: Collection[str]) -> list[OnBroker]:
        """Count what waits on the broker, by group. Raises BrokerUnavailable."""
        link = self._connected()
        try:
            async with asyncio.timeout(self._send_timeout):
                return await link.backlog(names, groups)
        except Exception as error:
            raise BrokerUnavailable(f"The broker does not tell what waits there: {error!r}") from error

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
            except Exception as error:  # noqa: BLE001  # whatever it was, a new connection is the cure
                _log.warning("no connection to the broker", kind=self._kind, reason=repr(error))
            finally:
                self._link = None
                tried.set()
                self._closing = asyncio.create_task(link.close())
                await asyncio.shield(self._closing)  # it is bounded, and half closed is not closed
            pause = min(_MAX_PAUSE_SECONDS, max(0.25, pause * 2))
            with suppress(TimeoutError):  # jitter, not a secret
                await asyncio.wait_for(self._stopping.wait(), pause * random.uniform(0.5, 1))  # noqa: S311

    async def _watch(self, link: Link) -> None:
        """Until the end. Raises when the connection, or something that is needed on the broker, is gone."""
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
        """Raises TimeoutError when nothing comes back; that nobody here had the time to look is no sign of it."""

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
