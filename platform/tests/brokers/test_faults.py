"""When a broker or a process dies, messages are delayed and not lost."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel.ext.messaging.brokers.broker import Broker, BrokerUnavailable
from tests.brokers.servers import Server, free_port
from tests.brokers.taker import NAME, Taker, until_answering
from tests.core.waiting import until_true

pytestmark = pytest.mark.slow

NewBroker = Callable[..., Broker]


async def test_the_messages_of_a_dead_process_are_delivered_to_another(
    new_broker: NewBroker, server: Server, prefix: str
) -> None:
    script = Path(__file__).parent / "hanging_process.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), server.url, prefix, "events", NAME, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        broker, taker = new_broker(), Taker()
        await broker.start()
        await broker.send(b"unfinished", NAME, "1")
        while (await asyncio.wait_for(process.stdout.readline(), 20)) != b"taken\n":
            pass
    finally:
        process.kill()
        await process.wait()
    other = new_broker()
    other.receive("events", {NAME}, taker)
    await other.start()
    await until_true(lambda: len(taker) == 1)


async def test_a_message_is_delivered_again_if_other_processes_connected_before_its_process_died(
    new_broker: NewBroker, server: Server, prefix: str
) -> None:
    """Each new connection deletes acknowledged messages, and must not touch pending ones."""
    script = Path(__file__).parent / "hanging_process.py"
    first, taker, publisher = new_broker(), Taker(), new_broker()
    first.receive("events", {NAME}, taker)
    await publisher.start()
    await first.start()
    await publisher.send(b"acknowledged", NAME, "1")
    await until_true(lambda: len(taker) == 1)
    await first.stop()
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), server.url, prefix, "events", NAME, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        await publisher.send(b"unfinished", NAME, "2")
        while (await asyncio.wait_for(process.stdout.readline(), 20)) != b"taken\n":
            pass
        other = new_broker()
        other.receive("events", {NAME}, taker)
        await other.start()
        await asyncio.sleep(0.5)  # For the work of a new connection.
        await other.stop()
    finally:
        process.kill()
        await process.wait()
    last = new_broker()
    last.receive("events", {NAME}, taker)
    await last.start()
    await until_true(lambda: len(taker) == 2)


async def test_a_message_that_waits_for_its_next_attempt_survives_new_connections(new_broker: NewBroker) -> None:
    taken, attempts = Taker(), 0

    async def take(body: bytes) -> None:
        nonlocal attempts
        if body == b"refused at first":
            attempts += 1
            if attempts < 5:
                raise RuntimeError("not now")
        await taken(body)

    async def connected() -> Broker:
        broker = new_broker(lease_seconds=6)  # Pauses of up to 1.6 seconds.
        broker.receive("events", {NAME}, take)
        await broker.start()
        return broker

    broker = await connected()
    await broker.send(b"acknowledged", NAME, "1")
    await until_true(lambda: len(taken) == 1)
    await broker.send(b"refused at first", NAME, "2")
    for seen in range(1, 5):
        await until_true(lambda seen=seen: attempts >= seen)  # type: ignore[misc]  # the default has no annotation
        await (await connected()).stop()
    await until_true(lambda: len(taken) == 2)


async def test_a_broker_that_is_killed_under_load_loses_no_confirmed_message(
    new_broker: NewBroker, server: Server
) -> None:
    """Neither for a group that receives all the time, nor for an absent one, whose messages wait on the broker."""
    publisher, consumer, taker = new_broker(send_timeout_seconds=2), new_broker(), Taker()
    away, back, late_taker = new_broker(), new_broker(), Taker()
    consumer.receive("events", {NAME}, taker)
    away.receive("billing", {NAME}, Taker())
    back.receive("billing", {NAME}, late_taker)
    await away.start()
    await away.stop()
    await publisher.start()
    await consumer.start()
    confirmed: list[bytes] = []
    refused: list[float] = []
    is_over = False

    async def publish(publisher_number: int) -> None:
        number = 0
        while not is_over:
            number += 1
            body, begun = f"{publisher_number}-{number}".encode(), time.monotonic()
            try:
                await publisher.send(body, NAME, body.decode())
            except BrokerUnavailable:
                refused.append(time.monotonic() - begun)
                await asyncio.sleep(0.05)
            else:
                confirmed.append(body)

    senders = [asyncio.create_task(publish(number)) for number in range(8)]
    await until_true(lambda: len(confirmed) > 300)
    await asyncio.to_thread(server.kill)
    await until_true(lambda: len(refused) > 20)
    with pytest.raises(BrokerUnavailable):
        await publisher.check()
    before = len(confirmed)
    await asyncio.to_thread(server.start)
    await until_answering(publisher)
    await until_true(lambda: len(confirmed) > before + 100)
    is_over = True
    await asyncio.gather(*senders)
    await back.start()
    await until_true(lambda: set(confirmed) <= set(taker.taken) & set(late_taker.taken), seconds=40)
    assert max(refused) < 2.5
    twice = taker.taken.total() - len(taker)
    sys.stdout.write(f"{server.binary}: {len(confirmed)} confirmed, 0 lost, {len(refused)} refused, {twice} twice\n")


@pytest.mark.alone
async def test_a_broker_that_does_not_answer_is_detected_in_time(new_broker: NewBroker, server: Server) -> None:
    broker = new_broker(send_timeout_seconds=1)
    await broker.start()
    os.kill(server.pid(), signal.SIGSTOP)
    try:
        await until_true(lambda: _is_stopped(server.pid()))
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            await broker.check()
        assert time.monotonic() - begun < 1
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            await broker.send(b"into the void", NAME, "1")
        assert time.monotonic() - begun < 1.5
        begun = time.monotonic()
        await broker.stop()
        assert time.monotonic() - begun < 10
    finally:
        os.kill(server.pid(), signal.SIGCONT)


async def test_a_slow_confirmation_does_not_close_the_connection(new_broker: NewBroker, server: Server) -> None:
    broker = new_broker()
    await broker.start()
    os.kill(server.pid(), signal.SIGSTOP)
    try:
        await until_true(lambda: _is_stopped(server.pid()))
        sending = asyncio.create_task(broker.send(b"patience", NAME, "1"))
        done, _ = await asyncio.wait({sending}, timeout=1)  # The connection is closed after 1.8 s.
        assert not done
    finally:
        os.kill(server.pid(), signal.SIGCONT)
    await sending


async def test_a_late_event_loop_does_not_close_the_connection(new_broker: NewBroker) -> None:
    broker = new_broker()
    await broker.start()
    for _ in range(3):
        time.sleep(2.1)  # noqa: ASYNC251  # that is the fault
        for _ in range(20):
            await asyncio.sleep(0.01)
            assert broker.is_connected()
    await broker.send(b"all the same", NAME, "1")


async def test_a_process_may_start_before_its_broker(new_broker: NewBroker, server: Server) -> None:
    port = free_port()
    broker, taker = new_broker(url=server.url.replace(str(server.port), str(port))), Taker()
    broker.receive("events", {NAME}, taker)
    begun = time.monotonic()
    await broker.start()
    assert time.monotonic() - begun < 12
    with pytest.raises(BrokerUnavailable):
        await broker.check()
    with pytest.raises(BrokerUnavailable):
        await broker.send(b"too early", NAME, "1")
    forwarding = await asyncio.start_server(_forward_to(server.port), "127.0.0.1", port)
    async with forwarding:
        await until_answering(broker)
        await broker.send(b"in time", NAME, "2")
        await until_true(lambda: len(taker) == 1)
        await broker.stop()


def _is_stopped(pid: int) -> bool:
    """Return whether all threads of the process are stopped, not only the first."""
    return all("\nState:\tT" in task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/status"))


def _forward_to(port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]:
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, broker_writer), pump(broker_reader, writer), return_exceptions=True)

    return forward


async def test_without_a_broker_no_client_is_loaded() -> None:
    program = "import sys, kernel.application, kernel.ext.messaging.brokers.broker; print('faststream' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    assert output.strip() == b"False"
