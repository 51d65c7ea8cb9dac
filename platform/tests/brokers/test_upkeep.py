"""Streams, queues and groups on the brokers are created, deleted and created again."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aio_pika
import nats
import pytest
from nats.js import JetStreamContext
from redis.asyncio import Redis

from kernel.ext.messaging.brokers.broker import Broker
from tests.brokers.servers import Server
from tests.brokers.taker import NAME, Taker
from tests.core.waiting import until_true

pytestmark = pytest.mark.slow

NewBroker = Callable[..., Broker]
only_nats = pytest.mark.parametrize("server", ["nats", "newest nats"], indirect=True)
only_rabbitmq = pytest.mark.parametrize("server", ["rabbitmq"], indirect=True)
only_redis = pytest.mark.parametrize("server", ["redis"], indirect=True)


@pytest.fixture
async def redis(server: Server) -> AsyncIterator[Redis]:
    async with Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
async def jetstream(server: Server) -> AsyncIterator[JetStreamContext]:
    connection = await nats.connect(server.url)
    yield connection.jetstream()
    await connection.close()


async def _two_groups_of_which_one_is_away(new_broker: NewBroker, prefix: str) -> tuple[Broker, Taker]:
    """Provide a broker with 1,000 messages that `events` has taken and `billing` has not."""
    billing, broker, taker = new_broker(), new_broker(), Taker()
    billing.receive("billing", {NAME}, Taker())
    await billing.start()
    await billing.stop()
    broker.receive("events", {NAME}, taker)
    await broker.start()
    await asyncio.gather(*(broker.send(b"%d" % number, NAME, f"{prefix}{number}") for number in range(1000)))
    await until_true(lambda: len(taker) == 1000)
    return broker, taker


async def _take_as_billing(new_broker: NewBroker) -> None:
    broker, taker = new_broker(), Taker()
    broker.receive("billing", {NAME}, taker)
    await broker.start()
    await until_true(lambda: len(taker) == 1000)


@only_redis
async def test_redis_keeps_messages_until_every_group_has_taken_them(
    new_broker: NewBroker, redis: Redis, prefix: str
) -> None:
    stream = f"{prefix}:{NAME}"
    await _two_groups_of_which_one_is_away(new_broker, prefix)
    await _stay_for_a_look_around(new_broker)
    assert await redis.xlen(stream) == 1000
    await _take_as_billing(new_broker)
    await _stay_for_a_look_around(new_broker)
    assert await redis.xlen(stream) <= 100  # Redis deletes whole blocks of a hundred.


@only_nats
async def test_nats_keeps_messages_until_every_group_has_taken_them(
    new_broker: NewBroker, jetstream: JetStreamContext, prefix: str
) -> None:
    await _two_groups_of_which_one_is_away(new_broker, prefix)
    await _stay_for_a_look_around(new_broker)
    assert (await jetstream.stream_info(prefix)).state.messages == 1000
    await _take_as_billing(new_broker)
    await _stay_until_trimmed(new_broker, jetstream, prefix, 0)


@only_nats
async def test_nats_keeps_pending_messages_while_another_process_deletes_acknowledged_ones(
    new_broker: NewBroker, jetstream: JetStreamContext, prefix: str
) -> None:
    begun, finish, taken = asyncio.Event(), asyncio.Event(), Taker()

    async def take(body: bytes) -> None:
        if body == b"slow":
            begun.set()
            await finish.wait()
        await taken(body)

    broker = new_broker()
    broker.receive("events", {NAME}, take)
    await broker.start()
    for body in (b"early", b"slow"):
        await broker.send(body, NAME, body.decode())
    await begun.wait()
    await _stay_until_trimmed(new_broker, jetstream, prefix, 1)
    [consumer] = await jetstream.consumers_info(prefix)
    assert consumer.num_ack_pending == 1
    finish.set()
    await until_true(lambda: len(taken) == 2)


@only_nats
async def test_a_foreign_consumer_of_several_names_keeps_their_messages(
    new_broker: NewBroker, jetstream: JetStreamContext, prefix: str
) -> None:
    await new_broker().start()  # It creates the stream.
    audit = await jetstream.pull_subscribe(f"{prefix}.images.*", durable="audit", stream=prefix)
    broker, taker = new_broker(), Taker()
    broker.receive("events", {NAME}, taker)
    await broker.start()
    await broker.send(b"one", NAME, "1")
    await until_true(lambda: len(taker) == 1)
    await _stay_for_a_look_around(new_broker)
    [message] = await audit.fetch(1)
    assert message.data == b"one"
    await message.ack_sync()
    await _stay_until_trimmed(new_broker, jetstream, prefix, 0)


async def _stay_until_trimmed(new_broker: NewBroker, jetstream: JetStreamContext, prefix: str, messages: int) -> None:
    """Open a connection, which begins with a trim; return when the stream has this many messages."""
    broker = new_broker()
    broker.receive("events", {NAME}, Taker())
    await broker.start()
    async with asyncio.timeout(10):
        while (await jetstream.stream_info(prefix)).state.messages != messages:  # noqa: ASYNC110  # it sets no event here
            await asyncio.sleep(0.02)
    await broker.stop()


async def _stay_for_a_look_around(new_broker: NewBroker) -> None:
    """Open a connection, which begins with a check."""
    broker, taker = new_broker(), Taker()
    broker.receive("events", {NAME}, taker)
    await broker.start()
    await asyncio.sleep(0.5)  # The check runs after the connection, and no event tells when.
    await broker.stop()


@only_redis
async def test_a_group_that_was_removed_from_redis_is_created_again(
    new_broker: NewBroker, redis: Redis, prefix: str
) -> None:
    await _is_mended(new_broker, redis.delete(f"{prefix}:{NAME}"))


@only_nats
async def test_a_consumer_that_was_removed_from_nats_is_created_again(
    new_broker: NewBroker, jetstream: JetStreamContext, prefix: str
) -> None:
    await _is_mended(new_broker, jetstream.delete_consumer(prefix, "events-images-image_deleted"))


@only_rabbitmq
async def test_a_queue_that_was_removed_from_rabbitmq_is_created_again(
    new_broker: NewBroker, server: Server, prefix: str
) -> None:
    async with await aio_pika.connect(server.url) as connection:
        channel = await connection.channel()
        await _is_mended(new_broker, channel.queue_delete(f"{prefix}.events"))


async def _is_mended(new_broker: NewBroker, removal: object) -> None:
    broker, taker = new_broker(), Taker()
    broker.receive("events", {NAME}, taker)
    await broker.start()
    await broker.send(b"before", NAME, "1")
    await until_true(lambda: len(taker) == 1)
    await removal  # type: ignore[misc]  # a coroutine of one client or another
    await broker.send(b"after", NAME, "2")
    await until_true(lambda: len(taker) == 2, seconds=30)


@only_redis
async def test_a_redis_without_persistence_is_reported(
    new_broker: NewBroker, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    await redis.config_set("appendonly", "no")
    try:
        await new_broker().start()
        assert "set `appendonly yes`" in capsys.readouterr().out
    finally:
        await redis.config_set("appendonly", "yes")


@only_redis
async def test_many_simultaneous_messages_use_few_connections_to_redis(new_broker: NewBroker, redis: Redis) -> None:
    before = len(await redis.client_list())
    broker = new_broker()
    await broker.start()
    await asyncio.gather(*(broker.send(b"many", NAME, f"{number}") for number in range(1000)))
    assert len(await redis.client_list()) - before <= 20


@only_redis
async def test_a_client_that_swallows_a_cancellation_leaves_no_task(
    new_broker: NewBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `asyncio.wait_for` does on Python 3.11, about once in 500 stops. `new_broker` asserts that no task is left."""
    reads = asyncio.Event()
    swallowed = []

    async def never(*_: Any, **__: Any) -> None:
        reads.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            swallowed.append(error)
        raise ConnectionError("closed by now")

    monkeypatch.setattr(Redis, "xautoclaim", never)
    broker = new_broker()
    broker.receive("events", {NAME}, Taker())
    await broker.start()
    await reads.wait()
    await broker.stop()
    assert len(swallowed) == 1


@only_nats
async def test_a_connection_to_nats_that_breaks_during_a_send_leaves_no_task(new_broker: NewBroker) -> None:
    """As when the server is killed under load. `new_broker` asserts that no task is left."""
    broker: Any = new_broker()
    await broker.start()
    await broker.send(b"one", NAME, "1")
    connection = broker._link._connection

    async def broken() -> None:
        connection._transport._bare_io_writer.transport.abort()
        raise ConnectionResetError

    connection._flusher_task.cancel()
    await asyncio.sleep(0)
    connection._transport.drain = broken
    connection._pending.append(b"PING\r\n")
    connection._pending_data_size = 6
    await broker.stop()
