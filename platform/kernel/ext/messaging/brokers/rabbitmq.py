"""RabbitMQ: one topic exchange, a durable queue for each group, and one for each name without a group yet."""

import asyncio
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from typing import Any

from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed, PublishError
from faststream.rabbit import Channel, ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue

from kernel.ext.messaging.brokers.connection import Link, MessageRefused, OnBroker


class Opened(Link):
    """A connection to RabbitMQ."""

    _is_lost = False

    async def open(self) -> None:
        channel = Channel(prefetch_count=self._prefetch, publisher_confirms=True, on_return_raises=True)
        self._broker = RabbitBroker(self._url, **self._options(), default_channel=channel)
        self._connection = await self._broker.connect()
        self._exchange = RabbitExchange(self._prefix, type=ExchangeType.TOPIC, durable=True)
        exchange = await self._broker.declare_exchange(self._exchange)
        self._pings = await self._connection.channel()
        for subscription in self._subscriptions:
            queue = _queue(f"{self._prefix}.{subscription.group}")
            declared = await self._broker.declare_queue(queue)
            for name in subscription.names:
                await declared.bind(exchange, name)
            self._broker.subscriber(queue)(self._taker(subscription.take))
        for name in {name for subscription in self._subscriptions for name in subscription.names}:
            self._broker.subscriber(self._waiting(name))(self._taker(partial(self._pass_on, name)))
        await self._broker.start()

    async def send(self, body: bytes, name: str, message_id: str) -> None:
        try:
            await self._publish(body, name, message_id, self._exchange)
        except PublishError:  # No queue is bound to this name: the message waits for the first one.
            queue = self._waiting(name)
            await self._broker.declare_queue(queue)
            await self._publish(body, queue.name, message_id, RabbitExchange())

    async def _publish(self, body: bytes, key: str, message_id: str | None, exchange: RabbitExchange) -> None:
        try:
            await self._broker.publish(
                body, exchange=exchange, routing_key=key, correlation_id=message_id, persist=True
            )
        except ChannelPreconditionFailed as error:
            self._is_lost = True  # the server has closed the channel
            raise MessageRefused(str(error)) from error

    async def ping(self) -> None:
        if self._is_lost or not self._connection.connected.is_set():
            raise ConnectionError("the connection is closed")
        await self._pings.declare_exchange(self._prefix, passive=True, robust=False)

    async def _pass_on(self, name: str, body: bytes) -> None:
        """Move the messages that waited for a first group to the exchange."""
        await self._publish(body, name, None, self._exchange)

    async def tend(self) -> None:
        for subscription in self._subscriptions:
            await self._pings.declare_queue(f"{self._prefix}.{subscription.group}", passive=True, robust=False)

    async def backlog(self, names: Collection[str], groups: Collection[str]) -> list[OnBroker]:
        """Count without unacknowledged messages, which RabbitMQ does not report."""
        queues: list[tuple[str, str | None, str]] = [("*", group, f"{self._prefix}.{group}") for group in groups]
        queues += [(name, None, f"{self._prefix}.waiting.{name}") for name in names]
        found = []
        for name, group, queue in queues:
            channel = await self._connection.channel()
            try:
                declared = await channel.declare_queue(queue, passive=True, robust=False)
                found.append(OnBroker(name, group, declared.declaration_result.message_count or 0))
            except ChannelNotFoundEntity:
                continue
            finally:
                await channel.close()
        return found

    async def _disconnect(self) -> None:
        await self._connection.close()

    async def _attempt(self, message: Any) -> int:
        return 4 if message.raw_message.redelivered else 1  # a classic queue does not count

    async def _again(self, message: Any, pause_seconds: float) -> None:
        # RabbitMQ delivers again immediately, so the message is held during the pause. A delay queue (TTL and dead
        # letters) would take it over without a confirmation.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), pause_seconds)
        await message.nack()

    async def _keep(self, message: Any) -> None:
        """Do nothing: RabbitMQ reserves a message for its connection for half an hour."""

    def _waiting(self, name: str) -> RabbitQueue:
        return _queue(f"{self._prefix}.waiting.{name}")


def _queue(name: str) -> RabbitQueue:
    return RabbitQueue(name, durable=True, robust=False)
