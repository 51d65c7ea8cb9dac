"""The delivery of messages by every kind of broker."""

import asyncio
import time
from collections.abc import Callable

import pytest

from kernel.ext.messaging.brokers.broker import Broker, BrokerUnavailable
from kernel.ext.messaging.brokers.connection import MessageRefused, OnBroker
from tests.brokers.servers import Nats, Redis, Server
from tests.brokers.taker import NAME, Taker
from tests.core.waiting import until_true

pytestmark = pytest.mark.slow

NewBroker = Callable[..., Broker]


async def test_a_message_arrives_as_the_bytes_that_were_sent(new_broker: NewBroker) -> None:
    broker, taker = new_broker(), Taker()
    broker.receive("events", {NAME}, taker)
    await broker.start()
    bodies = [b'{"id": 1}', b"[]", b"null", b'"text"', b"\x00\xff not JSON", b"x" * 100_000]
    for number, body in enumerate(bodies):
        await broker.send(body, NAME, f"id{number}")
    await until_true(lambda: len(taker) == len(bodies))
    assert set(taker.taken) == set(bodies)


async def test_a_message_that_is_too_large_for_the_broker_is_refused_for_good(
    new_broker: NewBroker, server: Server
) -> None:
    """Redis accepts half a gigabyte, which is more than a message may have (MESSAGING_MAX_MESSAGE_BYTES)."""
    if isinstance(server, Redis):
        pytest.skip("Redis has no limit below half a gigabyte")
    broker = new_broker(send_timeout_seconds=30)
    await broker.start()
    with pytest.raises(MessageRefused):
        await broker.send(b"x" * ((2 << 20) if isinstance(server, Nats) else (129 << 20)), NAME, "1")

    async with asyncio.timeout(40):
        while True:
            try:
                await broker.send(b"small", NAME, "2")
                break
            except BrokerUnavailable:  # RabbitMQ has closed the channel, which is opened again.
                await asyncio.sleep(0.1)


async def test_a_group_gets_all_its_names_and_no_other(new_broker: NewBroker) -> None:
    broker, taker, other = new_broker(), Taker(), Taker()
    broker.receive("events", {NAME, "images.image_stored"}, taker)
    broker.receive("billing", {"images.image_seen"}, other)
    await broker.start()
    await broker.send(b"seen", "images.image_seen", "1")
    await broker.send(b"deleted", NAME, "2")
    await broker.send(b"stored", "images.image_stored", "3")
    await until_true(lambda: len(taker) == 2 and len(other) == 1)
    assert set(taker.taken) == {b"deleted", b"stored"}
    assert set(other.taken) == {b"seen"}


async def test_waiting_messages_on_the_broker_can_be_counted(new_broker: NewBroker) -> None:
    publisher = new_broker()
    await publisher.start()
    await publisher.send(b"early", NAME, "1")
    assert await publisher.backlog([NAME, "images.image_seen"], ["events"]) == [OnBroker(NAME, None, 1)]
    subscriber, taker = new_broker(), Taker()
    subscriber.receive("events", {NAME}, taker)
    await subscriber.start()
    await until_true(lambda: len(taker) == 1)
    await subscriber.stop()
    for number in (2, 3):
        await publisher.send(f"late {number}".encode(), NAME, str(number))
    found = await publisher.backlog([NAME], ["events", "billing"])
    assert [(one.group, one.messages) for one in found if one.messages] == [("events", 2)]


async def test_each_group_gets_each_message_and_its_processes_share_them(new_broker: NewBroker) -> None:
    takers = [Taker() for _ in range(3)]
    for group, taker in zip(("events", "events", "billing"), takers, strict=True):
        broker = new_broker()
        broker.receive(group, {NAME}, taker)
        await broker.start()
    bodies = [f"message {number}".encode() for number in range(200)]
    await asyncio.gather(*(broker.send(body, NAME, body.decode()) for body in bodies))
    first, second, billing = takers
    await until_true(lambda: len(first) + len(second) >= 200 and len(billing) == 200)
    assert set(first.taken + second.taken) == set(bodies)
    assert (first.taken + second.taken).total() == 200
    assert billing.taken.total() == 200
    assert len(first)
    assert len(second)


async def test_a_message_waits_for_the_first_group_that_subscribes(new_broker: NewBroker) -> None:
    publisher = new_broker()
    await publisher.start()
    await publisher.send(b"early", NAME, "1")
    await publisher.send(b"early too", NAME, "2")
    consumer, taker = new_broker(), Taker()
    consumer.receive("events", {NAME}, taker)
    await consumer.start()
    await publisher.send(b"late", NAME, "3")
    await until_true(lambda: len(taker) == 3)
    assert taker.taken.total() == 3


async def test_an_absent_group_misses_no_message(new_broker: NewBroker) -> None:
    first = new_broker()
    first.receive("events", {NAME}, Taker())
    await first.start()
    await first.stop()
    publisher = new_broker()
    await publisher.start()
    await publisher.send(b"meanwhile", NAME, "1")
    second, taker = new_broker(), Taker()
    second.receive("events", {NAME}, taker)
    await second.start()
    await until_true(lambda: len(taker) == 1)


async def test_a_failed_message_is_delivered_again_after_a_pause_until_it_succeeds(new_broker: NewBroker) -> None:
    broker, taker = new_broker(), Taker(failures=2)
    broker.receive("events", {NAME}, taker)
    await broker.start()
    await broker.send(b"again", NAME, "1")
    await until_true(lambda: len(taker) == 1)
    first, second, third = taker.times
    assert min(second - first, third - second) > 0.04  # A thirtieth of the lease, with jitter.
    await broker.stop()
    after, nothing = new_broker(), Taker()
    after.receive("events", {NAME}, nothing)
    await after.start()
    await after.send(b"next", NAME, "2")
    await until_true(lambda: len(nothing) == 1)
    await asyncio.sleep(3.5)  # Longer than a lease, after which it would be delivered again.
    assert set(nothing.taken) == {b"next"}
    assert taker.taken.total() == 1


async def test_a_message_that_is_not_taken_delays_no_other_and_is_not_lost(new_broker: NewBroker) -> None:
    """Even if completed messages around it are deleted, which the second broker does first."""
    taken: set[bytes] = set()
    refused = b"0"

    async def take(body: bytes) -> None:
        if body == refused:
            raise RuntimeError("not this one")
        taken.add(body)

    for turn in range(2):
        broker = new_broker()
        broker.receive("events", {NAME}, take)
        await broker.start()
        await asyncio.gather(*(broker.send(b"%d" % number, NAME, f"{turn}-{number}") for number in range(300)))
        await until_true(lambda: len(taken) == 299)
        taken.clear()
        await asyncio.sleep(0.5)  # The broker learns which messages were taken, and no event tells when.
        await broker.stop()
    refused = b""
    last = new_broker()
    last.receive("events", {NAME}, take)
    await last.start()
    await until_true(lambda: b"0" in taken)


async def test_a_slow_message_keeps_its_lease(new_broker: NewBroker) -> None:
    begun = 0

    async def take_slowly(_: bytes) -> None:
        nonlocal begun
        begun += 1
        await asyncio.sleep(5)  # The lease is 3 s.

    brokers = [new_broker(), new_broker()]
    for broker in brokers:
        broker.receive("events", {NAME}, take_slowly)
        await broker.start()
    await brokers[0].send(b"slow", NAME, "1")
    await asyncio.sleep(6.5)
    assert begun == 1


async def test_the_stop_does_not_wait_for_a_message_that_hangs(new_broker: NewBroker) -> None:
    begun = asyncio.Event()

    async def hang(_: bytes) -> None:
        begun.set()
        await asyncio.sleep(3600)

    broker = new_broker()
    broker.receive("events", {NAME}, hang)
    await broker.start()
    await broker.send(b"hangs", NAME, "1")
    await begun.wait()
    started = time.monotonic()
    await broker.stop()
    assert time.monotonic() - started < 8


async def test_the_stop_waits_for_messages_in_progress(new_broker: NewBroker) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def take(_: bytes) -> None:
        begun.set()
        await asyncio.sleep(0.5)
        ended.set()

    broker = new_broker()
    broker.receive("events", {NAME}, take)
    await broker.start()
    await broker.send(b"short", NAME, "1")
    await begun.wait()
    await broker.stop()
    assert ended.is_set()


def test_a_url_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="amqp://"):
        Broker("kafka://localhost")
