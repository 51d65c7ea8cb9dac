"""Redis Streams: a stream for each name, a consumer group for each group.

The processes of a group share one consumer, so that no consumer remains when a process ends. Another process claims its
unacknowledged messages after they have been idle for a lease.
"""

import asyncio
from collections.abc import Collection
from typing import Any

import structlog
from faststream.redis import RedisBroker, StreamSub
from redis.exceptions import ResponseError

from kernel.ext.messaging.brokers.connection import Link, OnBroker

_log = structlog.get_logger("kernel.ext.messaging")

# Each simultaneous send needs a connection, and the pool never closes one.
_MOST_SENDING = 16


class Opened(Link):
    """A pool of connections to Redis."""

    async def open(self) -> None:
        # A subscriber that waits for messages holds a connection.
        self._broker = RedisBroker(self._url, **self._options(), max_connections=10_000)
        self._sending = asyncio.Semaphore(_MOST_SENDING)
        self._client = await self._broker.connect()
        await self._warn()
        lease, look = int(self._lease * 1000), int(min(1.0, self._lease / 10) * 1000)
        for subscription in self._subscriptions:
            for name in subscription.names:
                # From the first message on; FastStream's own group begins with the next one.
                await self._make_group(self._stream(name), subscription.group)
                for idle in (None, lease):
                    stream = StreamSub(
                        self._stream(name),
                        group=subscription.group,
                        consumer=subscription.group,
                        polling_interval=look,
                        max_records=self._prefetch,
                        min_idle_time=idle,
                    )
                    subscriber = self._broker.subscriber(stream=stream, max_workers=self._prefetch)
                    subscriber(self._taker(subscription.take))
        await self._broker.start()

    async def send(self, body: bytes, name: str, message_id: str) -> None:
        async with self._sending:
            await self._broker.publish(body, stream=self._stream(name), correlation_id=message_id)

    async def ping(self) -> None:
        await self._client.ping()

    async def tend(self) -> None:
        """Raise if a group is gone, and delete the messages that all groups of a stream have acknowledged."""
        for stream in {self._stream(name) for subscription in self._subscriptions for name in subscription.names}:
            groups = {group["name"].decode(): group for group in await self._client.xinfo_groups(stream)}
            for subscription in self._subscriptions:
                if stream in map(self._stream, subscription.names) and subscription.group not in groups:
                    raise LookupError(f"the group {subscription.group} of {stream} is gone")
            done = []
            for name, group in groups.items():
                pending = await self._client.xpending(stream, name)
                done.append(pending["min"] or group["last-delivered-id"])
            oldest = min(done, key=lambda entry: tuple(map(int, entry.split(b"-"))))
            await self._client.xtrim(stream, minid=oldest, approximate=True)

    async def backlog(self, names: Collection[str], groups: Collection[str]) -> list[OnBroker]:
        found = []
        for name in names:
            stream = self._stream(name)
            if not await self._client.exists(stream):
                continue
            of_stream = await self._client.xinfo_groups(stream)
            for group in of_stream:
                lag = group.get("lag")  # Redis 7 has the field, without a value after entries were deleted.
                if lag is None:
                    lag = len(await self._client.xrange(stream, b"(" + group["last-delivered-id"]))
                found.append(OnBroker(name, group["name"].decode(), lag + group["pending"]))
            if not of_stream:
                found.append(OnBroker(name, None, await self._client.xlen(stream)))
        return found

    async def _disconnect(self) -> None:
        await self._client.aclose()

    async def _attempt(self, message: Any) -> int:
        return int(await message.get_delivery_count())

    async def _again(self, message: Any, pause_seconds: float) -> None:
        await self._claim(message, idle_seconds=self._lease - pause_seconds)

    async def _keep(self, message: Any) -> None:
        await self._claim(message, idle_seconds=0)

    async def _claim(self, message: Any, idle_seconds: float) -> None:
        """Return for how long the message has been idle; after a lease it is delivered again."""
        raw = message.raw_message
        await self._client.xclaim(
            raw["channel"],
            message.group,
            message.group,
            0,
            raw["message_ids"],
            idle=int(idle_seconds * 1000),
            justid=True,
        )

    async def _make_group(self, stream: str, group: str) -> None:
        try:
            await self._client.xgroup_create(stream, group, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def _warn(self) -> None:
        """Warn of settings with which a crash or a full memory loses confirmed messages."""
        info = await self._client.info()
        if not info.get("aof_enabled"):
            _log.warning("Redis loses confirmed messages when it dies: set `appendonly yes`")
        if info.get("maxmemory") and not str(info.get("maxmemory_policy")).startswith(("noeviction", "volatile-")):
            _log.warning("Redis evicts streams when its memory is full: set `maxmemory-policy noeviction`")

    def _stream(self, name: str) -> str:
        return f"{self._prefix}:{name}"
