"""NATS JetStream: one stream for all messages, a durable pull consumer for each group and name.

A message stays in the stream until every consumer of its name has acknowledged it; a message without a consumer waits
for the first one. JetStream itself removes messages by limits (which lose them) or by interest (which keeps nothing for
a consumer that is created later), so `tend` deletes the acknowledged messages.

It deletes them one by one and never purges: `purge_stream` before nats-server 2.9.15 discards the pending
acknowledgements of every consumer of the subject, and the messages behind them are not delivered again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from faststream.nats import JStream, NatsBroker, PullSub
from nats.errors import ConnectionClosedError, Error, MaxPayloadError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StorageType
from nats.js.errors import NotFoundError

from kernel.ext.messaging.brokers.connection import Link, MessageRefused, OnBroker

# A message that arrives during the request is returned immediately.
_FETCH_SECONDS = 5.0
_FAILED_FETCH_SECONDS = 1.0
# The caller of `send` has a time limit of its own. FastStream's would be half a second, too short for a busy server.
_PUBLISH_SECONDS = 600.0


class Opened(Link):
    """A connection to NATS."""

    # The task that deletes acknowledged messages, and the last sequence number that it has seen of each subject.
    _trimming: asyncio.Task[None] | None = None
    _trimmed: dict[str, int]

    async def open(self) -> None:
        self._trimmed = {}
        # Two tries for each server. The client does not repair a lost connection; the kernel opens a new one.
        tries: dict[str, Any] = {"max_reconnect_attempts": 1, "reconnect_time_wait": 0.1, "allow_reconnect": False}
        self._broker = NatsBroker(self._url.split(","), **self._options(), **tries, connect_timeout=5)
        self._connection = await self._broker.connect()
        self._jetstream = self._connection.jetstream()
        try:
            await self._jetstream.stream_info(self._prefix)
        except NotFoundError:
            subjects = [f"{self._prefix}.>"]
            await self._jetstream.add_stream(name=self._prefix, subjects=subjects, storage=StorageType.FILE)
        stream = JStream(self._prefix, declare=False)
        for subscription in self._subscriptions:
            for name in subscription.names:
                config = self._consumer(subscription.group, name)
                await self._jetstream.add_consumer(self._prefix, config)
                subscriber = self._broker.subscriber(
                    self._subject(name),
                    stream=stream,
                    durable=config.durable_name,
                    config=config,
                    pull_sub=PullSub(timeout=_FETCH_SECONDS),
                    max_workers=self._prefetch,
                )
                subscriber(self._taker(subscription.take))
        await self._broker.start()
        for started in self._broker.subscribers:
            started.subscription.fetch = partial(self._fetch, started.subscription.fetch)

    async def _fetch(self, fetch: Callable[..., Awaitable[Any]], **options: Any) -> Any:
        """Fetch messages with a pause after a failure, because FastStream repeats the request immediately.

        On a closed connection its loop never yields to other tasks of the process. If the consumer is gone, it repeats
        as fast as the server refuses.
        """
        try:
            return await fetch(**options)
        except TimeoutError:
            raise
        except Error:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _FAILED_FETCH_SECONDS)
            raise

    async def send(self, body: bytes, name: str, message_id: str) -> None:
        # The message id: JetStream drops a duplicate within two minutes.
        headers = {"Nats-Msg-Id": message_id}
        try:
            await self._broker.publish(
                body,
                self._subject(name),
                headers=headers,
                stream=self._prefix,
                correlation_id=message_id,
                timeout=_PUBLISH_SECONDS,
            )
        except MaxPayloadError as error:
            raise MessageRefused(f"{len(body)} bytes are more than the server's max_payload") from error

    async def ping(self) -> None:
        if not self._connection.is_connected:  # `flush` does not raise in this state.
            raise ConnectionClosedError
        await self._connection.flush(timeout=5)

    async def tend(self) -> None:
        """Raise if a consumer is gone, and begin to delete the messages that all consumers have acknowledged."""
        for subscription in self._subscriptions:
            for name in subscription.names:
                await self._jetstream.consumer_info(self._prefix, _durable(subscription.group, name))
        if not self._subscriptions or (self._trimming is not None and not self._trimming.done()):
            return
        if self._trimming is not None:
            self._trimming.result()  # A failed trim is a reason to reconnect.
        consumers = await self._consumers()
        subjects = {self._subject(name) for subscription in self._subscriptions for name in subscription.names}
        done = {subject: min(c.ack_floor.stream_seq for c in consumers if _reads(c, subject)) for subject in subjects}
        # In a task beside the checks, which extend the leases of the messages in progress.
        self._trimming = asyncio.create_task(self._trim(done))

    async def _trim(self, done: Mapping[str, int]) -> None:
        """Delete each subject's messages up to its sequence number in `done`."""
        for subject, last in done.items():
            sequence = await self._next(subject)
            while sequence is not None and sequence <= last:
                with suppress(NotFoundError):  # Another process has deleted it.
                    await self._jetstream.delete_msg(self._prefix, sequence)
                self._trimmed[subject] = sequence
                sequence = await self._next(subject)

    async def _next(self, subject: str) -> int | None:
        """Return the sequence number of the subject's first message that this connection has not deleted."""
        after = self._trimmed.get(subject, 0)
        try:
            message = await self._jetstream.get_msg(self._prefix, after + 1, subject=subject, next=True)
        except NotFoundError:
            return None
        return None if message.seq is None else int(message.seq)

    async def _consumers(self) -> Sequence[Any]:
        """Return all consumers of the stream, including those that other processes created."""
        consumers: list[Any] = []
        while page := await self._jetstream.consumers_info(self._prefix, offset=len(consumers)):
            consumers += page
        return consumers

    async def backlog(self, names: Collection[str], groups: Collection[str]) -> list[OnBroker]:
        found = []
        consumers = await self._consumers()
        stored = (await self._jetstream.stream_info(self._prefix, subjects_filter=f"{self._prefix}.>")).state.subjects
        for name in names:
            readers = [one for one in consumers if one.config.filter_subject == self._subject(name)]
            for one in readers:
                group = str(one.config.durable_name).removesuffix(_durable("", name))
                found.append(OnBroker(name, group, (one.num_pending or 0) + (one.num_ack_pending or 0)))
            if not readers and (many := (stored or {}).get(self._subject(name))):
                found.append(OnBroker(name, None, many))
        return found

    async def _stop_receiving(self) -> None:
        # FastStream's own stop leaves tasks running if the connection is already closed (it cannot unsubscribe), and
        # waits half a minute for a server that does not answer. Closing the connection is sufficient.
        for subscriber in self._broker.subscribers:
            subscriber.running, subscriber.subscription = False, None
        await asyncio.gather(*(subscriber.stop() for subscriber in self._broker.subscribers))

    async def _disconnect(self) -> None:
        if self._trimming is not None:
            self._trimming.cancel()
        try:
            await self._connection.close()
        finally:
            # The client leaves these tasks running if the connection broke while it had unsent data.
            for subscription in self._connection._subs.values():
                subscription._stop_processing()
            if self._trimming is not None:
                await asyncio.gather(self._trimming, return_exceptions=True)

    async def _attempt(self, message: Any) -> int:
        return int(message.raw_message.metadata.num_delivered)

    async def _again(self, message: Any, pause_seconds: float) -> None:
        await message.nack(delay=pause_seconds)

    async def _keep(self, message: Any) -> None:
        await message.in_progress()

    def _subject(self, name: str) -> str:
        return f"{self._prefix}.{name}"

    def _consumer(self, group: str, name: str) -> ConsumerConfig:
        return ConsumerConfig(
            durable_name=_durable(group, name),
            filter_subject=self._subject(name),
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._lease,
            max_deliver=-1,
        )


def _durable(group: str, name: str) -> str:
    return f"{group}-{name.replace('.', '-')}"


def _reads(consumer: Any, subject: str) -> bool:
    """Return whether the consumer may read the subject: a filter that is not one plain subject may match it."""
    only = consumer.config.filter_subject
    return not only or only == subject or "*" in only or ">" in only
