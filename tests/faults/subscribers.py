"""Subscribers that die, refuse messages and lose their broker between receipt, commit and acknowledgement."""

import asyncio
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from kernel.runtime import Kernel
from kernel.testing import settings_for
from tests.brokers.servers import Nats, NewestNats, RabbitMQ, Redis, Server, require
from tests.core.project import imported_alone
from tests.core.waiting import until
from tests.faults.harness import Result, Shop, end
from tests.messaging.shop import place, write_shop

Scenario = Callable[[Path, str, bool], Awaitable[list[Result]]]

_NOWHERE = "http://127.0.0.1:9"
_AT_ONCE = 20
_MOST_BATCHES = 30

# Widens both windows to 0 to 100 ms, refuses one message in ten in each, and records the stage of each message.
_SLOW_AND_UNWILLING = """
import asyncio, json, random
from kernel.ext.messaging.brokers.broker import Broker
from kernel.ext.messaging.brokers.connection import Link
notes = open(f"taken.{os.getpid()}.log", "a", buffering=1)
start, deliver = Broker.start, Link._deliver
async def start_and_tell(self):
    await start(self)
    notes.write("- started\\n")
async def deliver_slowly(self, take, message):
    async def take_slowly(body):
        for stage in ("received", "committed"):
            if stage == "committed":
                await take(body)
            notes.write(f"{message_id} {stage}\\n")
            await asyncio.sleep(random.uniform(0, 0.1))
            if random.random() < 0.1:
                notes.write(f"{message_id} refused\\n")
                raise RuntimeError("refused")
    message_id = json.loads(message.body)["id"]
    await deliver(self, take_slowly, message)
    notes.write(f"{message_id} ended\\n")
Broker.start, Link._deliver = start_and_tell, deliver_slowly
"""


async def by_nats(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """nats-server 2.9: a purge of the stream discards pending acknowledgements (37 of 160 messages in 40 kills)."""
    return [await _killed(Nats, "NATS", folder, database_url, quick)]


async def by_the_newest_nats(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """The same on the server of the development dependencies."""
    return [await _killed(NewestNats, "NATS (newest)", folder, database_url, quick)]


async def by_rabbitmq(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """RabbitMQ delivers again when the connection ends."""
    return [await _killed(RabbitMQ, "RabbitMQ", folder, database_url, quick)]


async def by_redis(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """Redis delivers again when the lease of a message has ended."""
    return [await _killed(Redis, "Redis", folder, database_url, quick)]


async def _killed(kind: type[Server], name: str, folder: Path, database_url: str, quick: bool) -> Result:
    """kill -9 of one of two subscribers, in each window in turn; sometimes the broker is killed too."""
    kills, broker_dies_every = (2, 2) if quick else (15, 3)
    require(kind)
    data = folder / "broker"
    data.mkdir()
    server = kind(data)
    with ExitStack() as stack:
        stack.callback(server.close)
        await asyncio.to_thread(server.start)
        async with _apart(folder, database_url, server) as (publisher, subscriber):
            processes = [_start(stack, subscriber) for _ in range(2)]
            sent, hit = 0, Counter[str]()
            for turn in range(kills):
                victim = processes[turn % 2]
                await until(partial(_has_started, subscriber, victim), 60)
                stage = ("received", "committed")[turn % 2]
                for _ in range(_MOST_BATCHES):  # The other subscriber may take the first ones.
                    for _ in range(_AT_ONCE):
                        await place(publisher, sent)
                        sent += 1
                    with suppress(TimeoutError):
                        await until(partial(_has_reached, subscriber, victim, stage), 1)
                        break
                end(victim)
                hit += Counter(_last_stages(subscriber, victim))
                if turn % broker_dies_every == broker_dies_every - 1:
                    server.kill()
                    await asyncio.to_thread(server.start)
                processes[turn % 2] = _start(stack, subscriber)

            async def letters() -> Counter[int]:
                return Counter(row[0] for row in await subscriber.rows("mail", "SELECT number FROM {s}letters"))

            async def is_drained() -> bool:
                return len(await letters()) == sent and not await subscriber.rows("mail", _OPEN)

            with suppress(TimeoutError):  # Missing messages count as lost.
                await until(is_drained, 60)
            written = await letters()
    lost, doubled = len(set(range(sent)) - written.keys()), sum(count > 1 for count in written.values())
    return Result(
        f"subscriber killed, {name}", subscriber.kind, f"{kills} kills, {sent} messages",
        f"{hit['received']} died before the commit, {hit['committed']} before the acknowledgement",
        f"{lost} lost, {doubled} doubled", "0, 0",
        holds=lost == doubled == 0 and hit["received"] > 0 and hit["committed"] > 0,
    )  # fmt: skip


_OPEN = "SELECT 1 FROM {s}outbox WHERE finished_at IS NULL LIMIT 1"


@asynccontextmanager
async def _apart(folder: Path, database_url: str, server: Server) -> AsyncIterator[tuple[Kernel, Shop]]:
    """Provide the kernel that publishes in this process, and the module that subscribes in processes of its own."""
    common = {
        "ENVIRONMENT": "local",
        "LOG_LEVEL": "WARNING",
        "MESSAGING_BROKER_URL": server.url,
        "MESSAGING_BROKER_PREFIX": "faults",
        "MESSAGING_POLL_SECONDS": "0.1",
        "MESSAGING_BACKOFF_SECONDS": "0.05",
        "MESSAGING_HANDLER_TIMEOUT_SECONDS": "2",
        "DATABASE_URL": database_url,
    }
    publishes = common | {"ENABLED_MODULES": "shop"}
    subscribes = common | {"ENABLED_MODULES": "mail", "SHOP_URL": _NOWHERE}
    root = folder / "project"
    root.mkdir()
    with imported_alone():
        write_shop(root)
        here, there = (Kernel(settings_for(root, one)) for one in (publishes, subscribes))
        async with here.running(), there.running(serving=False):
            yield here, Shop(root, database_url, there, subscribes)


def _start(stack: ExitStack, subscriber: Shop) -> subprocess.Popen[bytes]:
    return stack.enter_context(subscriber.process("relay", patch=_SLOW_AND_UNWILLING))


def _notes(subscriber: Shop, process: subprocess.Popen[bytes]) -> Iterator[tuple[str, str]]:
    """Return the message and the stage of each note, without an incomplete last one."""
    path = subscriber.root / f"taken.{process.pid}.log"
    for line in path.read_text().splitlines(keepends=True) if path.exists() else ():
        if line.endswith("\n"):
            message_id, stage = line.split()
            yield message_id, stage


def _last_stages(subscriber: Shop, process: subprocess.Popen[bytes]) -> Iterator[str]:
    yield from dict(_notes(subscriber, process)).values()


async def _has_started(subscriber: Shop, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, (subscriber.root / "processes.log").read_text()[-2000:]
    return "started" in _last_stages(subscriber, process)


async def _has_reached(subscriber: Shop, process: subprocess.Popen[bytes], stage: str) -> bool:
    return stage in _last_stages(subscriber, process)


ON_BOTH: tuple[Scenario, ...] = (by_nats, by_the_newest_nats, by_rabbitmq, by_redis)
