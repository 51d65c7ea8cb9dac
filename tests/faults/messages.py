"""Messages while processes die, freeze and race. Guards against losing or doubling them."""

import asyncio
import json
import random
import re
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from itertools import count, pairwise
from pathlib import Path

import httpx2
from sqlalchemy.engine import URL, make_url

from kernel.ext.messaging.bus import MessageBus
from kernel.ext.messaging.outbox import AttemptLimits, Outbox, Wanted
from tests.core.waiting import until
from tests.faults.harness import (
    LEASE_SECONDS,
    Result,
    Shop,
    end,
    free_port,
    is_stopped,
    percentiles,
    shop,
    terminate_listeners,
    until_serving,
)
from tests.messaging.shop import place

Scenario = Callable[[Path, str, bool], Awaitable[list[Result]]]

SUBSCRIBER = "mail.write_letter"


class Load:
    """Clients that place orders, each with a number of its own, and record the acknowledged ones."""

    def __init__(self, here: Shop, url: str, acknowledged: set[int]) -> None:
        self._url, self._acknowledged, self._numbers = url, acknowledged, count()
        self._pause = 0.05 if here.kind == "SQLite" else 0  # SQLite has one writer at a time.

    async def keep_on(self, client: httpx2.AsyncClient) -> None:
        while True:
            number = next(self._numbers)
            try:
                answer = await client.post(self._url, json={"number": number})
            except httpx2.TransportError:
                await asyncio.sleep(0.02)
            else:
                if answer.status_code == 201:
                    self._acknowledged.add(number)
                await asyncio.sleep(self._pause)


async def killed_at_random(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """kill -9 of the server or of a relay, at a random moment under load.

    (Naive: background tasks lost 130 of 3,834.)
    """
    cycles = 5 if quick else 50
    # Handlers take a moment, so that a killed process has messages in progress.
    async with shop(folder, database_url, MAIL_DELAY_SECONDS="0.03") as here:
        acknowledged: set[int] = set()
        port = free_port()
        load = Load(here, f"http://127.0.0.1:{port}/api/v1/shop", acknowledged)

        with ExitStack() as stack:
            processes: list[subprocess.Popen[bytes]] = []
            commands = [("serve", "--port", str(port)), ("relay",)]
            processes = [stack.enter_context(here.process(*command)) for command in commands]
            for _ in range(cycles):
                await until_serving(port)
                async with httpx2.AsyncClient() as client:
                    clients = [asyncio.create_task(load.keep_on(client)) for _ in range(4)]
                    await asyncio.sleep(random.uniform(0.2, 0.6))
                    victims = random.choice([[0], [1], [0, 1]])
                    for victim in victims:
                        end(processes[victim])
                    for task in clients:
                        task.cancel()
                    await asyncio.gather(*clients, return_exceptions=True)
                for victim in victims:
                    processes[victim] = stack.enter_context(here.process(*commands[victim]))
            await here.until_drained()
        return [await counted(here, acknowledged, "kill -9 at random under load, then drained", f"{cycles} cycles")]


async def counted(here: Shop, acknowledged: set[int], scenario: str, tried: str) -> Result:
    """Count lost, doubled and redelivered messages, by comparing the orders with the letters written for them."""
    orders = {row[0] for row in await here.rows("shop", "SELECT number FROM {s}orders")}
    letters = Counter(row[0] for row in await here.rows("mail", "SELECT number FROM {s}letters"))
    lost = len(orders - letters.keys()) + len(acknowledged - orders)
    ghosts = len(letters.keys() - orders)
    doubled = sum(count > 1 for count in letters.values())
    [[attempts, sent]] = await here.rows("shop", "SELECT sum(attempts), count(*) FROM {s}outbox")
    redelivered = int(attempts) - int(sent)
    return Result(
        scenario, here.kind, f"{tried}, {len(orders):,} messages", f"{redelivered} redelivered",
        f"{lost} lost, {ghosts} ghosts, {doubled} doubled", "0, 0, 0",
        holds=(lost, ghosts, doubled) == (0, 0, 0) and redelivered > 0 and len(orders) > 0,
    )  # fmt: skip


_DIE = "async def die(*_, **__):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
_BEFORE_COMMIT = _DIE + (
    "from kernel.database.session import WriteSession\nfrom kernel.ext.fast.session import FastWriteSession\n"
    "WriteSession.finish = FastWriteSession.finish = die"
)
_BEFORE_COMPLETION = _DIE + "Outbox.complete = die"


async def killed_at_named_points(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """A crash at each point where a message could become a ghost, be lost, or take effect twice."""
    times = 2 if quick else 10
    results = []
    async with shop(folder, database_url) as here:
        crashes = 0
        for number in range(times):  # After publish, before commit.
            port = free_port()
            with here.process("serve", "--port", str(port), patch=_BEFORE_COMMIT, MESSAGING_RELAY="false") as process:
                await until_serving(port)
                async with httpx2.AsyncClient() as client:
                    with suppress(httpx2.TransportError):
                        await client.post(f"http://127.0.0.1:{port}/api/v1/shop", json={"number": number})
                crashes += process.wait(10) == -signal.SIGKILL
        waiting = await here.rows("shop", "SELECT 1 FROM {s}outbox")
        results.append(
            Result("crash after publish, before commit", here.kind, str(times), f"{crashes} crashes",
                   f"{len(waiting)} ghosts", "0", holds=not waiting and crashes == times)
        )  # fmt: skip
        acknowledged = set()
        for number in range(times):  # After commit, before any relay runs.
            port = free_port()
            with here.process("serve", "--port", str(port), MESSAGING_RELAY="false") as process:
                await until_serving(port)
                async with httpx2.AsyncClient() as client:
                    answer = await client.post(f"http://127.0.0.1:{port}/api/v1/shop", json={"number": number})
                acknowledged.add(number) if answer.status_code == 201 else None
                end(process)
        deaths = 0
        # After the effect, before its completion: each process takes as much as it can and dies at the first.
        for _ in range(times):
            with here.process("relay", patch=_BEFORE_COMPLETION) as process:
                deaths += await asyncio.to_thread(process.wait, 20) == -signal.SIGKILL
            await asyncio.sleep(LEASE_SECONDS)
            if await here._is_drained():
                break
        with here.process("relay"):
            await here.until_drained()
        result = await counted(here, acknowledged, "crash after commit, and after effect before completion", str(times))
        results.append(result)
        assert deaths > 0
    return results


async def many_writers(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """16 writers commit out of order while relays poll.

    (Naive: a relay that reads `id > last_seen` lost 358 of 960.)
    """
    writers, each = 16, 50 if quick else 625
    on_sqlite = database_url.startswith("sqlite")
    if on_sqlite:
        each = 20 if quick else 125  # SQLite has one writer at a time.
    async with shop(folder, database_url, MESSAGING_HANDLER_TIMEOUT_SECONDS="30") as here:
        sequences: Counter[str] = Counter()
        turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

        async def write(writer: int) -> None:
            for _ in range(each):
                customer = f"customer {random.randrange(40)}"
                pause = random.uniform(0, 0 if on_sqlite else 0.02)
                if random.random() < 0.5:
                    await place(here.kernel, writer, None, pause)
                    continue
                async with turns[customer]:  # Like a row lock: the actions of one customer are ordered.
                    sequences[customer] += 1
                    await place(here.kernel, sequences[customer], customer, pause)

        with here.process("relay"), here.process("relay"):
            await asyncio.gather(*(write(writer) for writer in range(writers)))
            await here.until_drained(300)
        sent = writers * each
        letters = await here.rows("mail", "SELECT number, customer FROM {s}letters ORDER BY id")
        [[attempts]] = await here.rows("shop", "SELECT sum(attempts) FROM {s}outbox")
        per_key: dict[str, list[int]] = defaultdict(list)
        for number, customer in letters:
            if customer is not None:
                per_key[customer].append(number)
        inversions = sum(a >= b for numbers in per_key.values() for a, b in pairwise(numbers))
        keyed = sum(map(len, per_key.values()))
        twice = int(attempts) - sent
        skipped, doubled = max(0, sent - len(letters)), max(0, len(letters) - sent)
        return [
            Result("16 writers, transactions of 0-20 ms, 2 relays", here.kind, f"{sent:,}", f"{keyed:,} with a key",
                   f"{skipped} skipped, {doubled} doubled, {twice} claimed twice, {inversions} inversions",
                   "0, 0, 0, 0", holds=(skipped, doubled, twice, inversions) == (0, 0, 0, 0))
        ]  # fmt: skip


_FREEZE_BEFORE_COMPLETION = """
from pathlib import Path
complete = Outbox.complete
async def freeze(self, delivery):
    os.kill(os.getpid(), signal.SIGSTOP)
    accepted = await complete(self, delivery)
    with Path("completions.log").open("a") as log:
        log.write(f"{int(accepted)}\\n")
    return accepted
Outbox.complete = freeze
"""


async def frozen(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """A worker is stopped past its lease and resumed.

    (Naive: without a fence it completes a message that another process has.)
    """
    times = 3 if quick else 30
    async with shop(folder, database_url) as here:
        stopped, log = 0, here.root / "completions.log"
        with here.process("relay", patch=_FREEZE_BEFORE_COMPLETION, MESSAGING_CONCURRENCY="2") as sleeper:
            for number in range(times):
                await place(here.kernel, number)

                async def asleep() -> bool:
                    return is_stopped(sleeper)

                await until(asleep)
                stopped += 1
                with here.process("relay"):
                    await here.until_drained()
                sleeper.send_signal(signal.SIGCONT)

                async def has_tried(tries: int = stopped) -> bool:
                    return log.exists() and len(log.read_text().split()) == tries

                await until(has_tried)
        accepted = sum(map(int, log.read_text().split()))
        letters = Counter(row[0] for row in await here.rows("mail", "SELECT number FROM {s}letters"))
        doubled = sum(count > 1 for count in letters.values())
        return [
            Result("SIGSTOP past the lease, then resumed", here.kind, str(times), f"{stopped} stopped",
                   f"{accepted} stale completions, {doubled} doubled", "0, 0",
                   holds=accepted == doubled == 0 and stopped == times == len(letters))
        ]  # fmt: skip


async def refused(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """A message whose handler always raises is abandoned after N attempts and does not delay others."""
    return [await _poisoned(folder, database_url, quick, "raises", MAIL_REFUSED="-1")]


async def fatal(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """A message whose handler ends its process: attempts that were counted at their end would never count."""
    return [await _poisoned(folder, database_url, quick, "kills its process", MAIL_FATAL="-1")]


async def _poisoned(folder: Path, database_url: str, quick: bool, how: str, **trouble: str) -> Result:
    messages, attempts = (100, 3) if quick else (400, 5)
    # A lease longer than a restart, as in production; otherwise the second relay dies before the first has restarted.
    settings = {"MESSAGING_MAX_ATTEMPTS": str(attempts), "MESSAGING_HANDLER_TIMEOUT_SECONDS": "2.5"}
    async with shop(folder, database_url, **settings, **trouble) as here:
        deaths = 0

        async def keep_alive() -> None:
            nonlocal deaths
            while True:
                with here.process("relay") as process:
                    await asyncio.to_thread(process.wait)
                    deaths += process.returncode == -signal.SIGKILL

        keepers = [asyncio.create_task(keep_alive()) for _ in range(2)]
        try:
            await place(here.kernel, 0)
            await here.until_drained()
            baseline = await delays(here, range(1000, 1000 + messages), pause=0.05)
            await place(here.kernel, -1)
            beside = await delays(here, range(2000, 2000 + messages), pause=0.05)
            await here.until_drained()
        finally:
            for keeper in keepers:
                keeper.cancel()
            died = deaths
            await asyncio.gather(*keepers, return_exceptions=True)
        [[state, made]] = await here.rows("shop", "SELECT state, attempts FROM {s}outbox WHERE state <> 'completed'")
        letters = Counter(row[0] for row in await here.rows("mail", "SELECT number FROM {s}letters"))
        wrong = sum(count > 1 for count in letters.values()) + len({0} - letters.keys())
        (p50, p99), (base50, base99) = percentiles(beside), percentiles(baseline)
        ratio = p50 / base50
        bit = how == "raises" or died >= attempts
        return Result(
            f"a handler that always {how}", here.kind, f"{messages} others", f"{made} attempts, {died} deaths",
            f"{state} after {made}; others' delay {p50:.1f} ms (alone {base50:.1f}), {ratio:.2f}; "
            f"p99 {p99:.0f} ms (alone {base99:.0f}); {wrong} lost or doubled",
            f"abandoned after {attempts}; 1.2; 0",
            holds=(state, made, wrong) == ("abandoned", attempts, 0) and ratio <= 1.2 and bit,
        )  # fmt: skip


async def delays(here: Shop, numbers: range, pause: float = 0.01) -> list[float]:
    """Return the seconds from just before the commit to the handler, for messages published one after the other."""
    for number in numbers:
        await place(here.kernel, number)
        await asyncio.sleep(pause)

    async def there() -> list[float]:
        written = await here.rows(
            "mail", f"SELECT number, written_at FROM {{s}}letters WHERE number BETWEEN {numbers[0]} AND {numbers[-1]}"
        )
        return written if len(written) == len(numbers) else []

    written = {number: as_seconds(at) for number, at in await until(there, 60)}
    published = await here.rows("shop", "SELECT payload, created_at FROM {s}outbox")
    created = {json.loads(payload)["number"]: as_seconds(at) for payload, at in published}
    return [written[number] - created[number] for number in numbers]


def as_seconds(moment: object) -> float:
    """Return a timestamp that either database returns to plain SQL."""
    from datetime import UTC, datetime  # noqa: PLC0415

    found = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    assert isinstance(found, datetime)
    return found.replace(tzinfo=found.tzinfo or UTC).timestamp()


async def deaf(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """The server ends the connection that listens. (Naive: a relay that only listens would get no further messages.)"""
    times, poll = 3 if quick else 10, 1.0
    server: URL = make_url(database_url)
    async with shop(folder, database_url, MESSAGING_POLL_SECONDS=str(poll)) as here:
        with here.process("relay"):
            await place(here.kernel, 0)
            await here.until_drained()
            ended, after, later = 0, [], []
            for turn in range(times):
                await asyncio.sleep(random.uniform(0, poll))
                ended += await asyncio.to_thread(terminate_listeners, server)
                after += await delays(here, range(10 * turn + 1, 10 * turn + 2))

                async def listens() -> bool:
                    seen = await here.rows(
                        "shop",
                        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query ~ '^LISTEN'",
                    )
                    return bool(seen)

                await until(listens)
                await asyncio.sleep(0.1)
                later += await delays(here, range(10 * turn + 2, 10 * turn + 3))
        return [
            Result("the LISTEN connection terminated", here.kind, str(times), f"{ended} connections ended",
                   f"longest delay {max(after):.2f} s; listening again: {percentiles(later)[0]:.1f} ms",
                   f"{poll:g} s, then below half of it",
                   holds=max(after) <= poll + 0.2 and percentiles(later)[0] < poll * 500 and ended >= times)
        ]  # fmt: skip


async def a_million_done(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """The cost of a poll depends on open messages only, not on completed ones."""
    from sqlalchemy import text  # noqa: PLC0415

    finished = 20_000 if quick else 1_000_000
    async with shop(folder, database_url) as here:
        outbox: Outbox = here.kernel.get(MessageBus).outboxes["shop"]
        for number in range(5):
            await place(here.kernel, number)

        async def look() -> tuple[float, str]:
            started, polls = time.perf_counter(), 200
            for _ in range(polls):
                await outbox.claim({"nobody": Wanted()}, 8, AttemptLimits(1, 3))
            return (time.perf_counter() - started) / polls * 1000, await explained(outbox)

        before, _ = await look()
        async with outbox.database.transaction() as session:
            await session.execute(text(_FINISHED), {"many": finished})
        async with outbox.database.transaction() as session:
            await session.execute(text("ANALYZE shop.outbox"))
        after, plan = await look()
        buffers = int(re.findall(r"shared hit=(\d+)", plan)[0])
        reads = re.findall(r"(?:Index|Seq|Bitmap)[ \w]* Scan.*", plan)
        by = sorted({word for line in reads for word in re.findall(r"ix_\w+|pk_\w+", line)})
        return [
            Result("a poll with many completed rows", here.kind, f"{finished:,} completed", "5 open",
                   f"{after:.2f} ms a poll ({before:.2f} before), {buffers} buffers to claim 5, by {', '.join(by)}",
                   "100 buffers, by index",
                   holds=buffers <= 100 and "Seq Scan on outbox" not in plan)
        ]  # fmt: skip


async def explained(outbox: Outbox) -> str:
    """Return the plan of the claim as it runs, and roll it back."""
    engine = outbox.database.writer
    compiled = outbox._claiming({SUBSCRIBER: Wanted("shop.order_placed", 1)}).compile(
        dialect=engine.dialect, schema_translate_map={None: "shop"}, compile_kwargs={"render_postcompile": True}
    )
    text_ = compiled.preparer._render_schema_translates(str(compiled), {None: "shop"})
    values = compiled.construct_params({"most": 8, "lease_seconds": 1.0, "max_attempts": 3})
    arguments = tuple(values[name] for name in compiled.positiontup or ())
    async with engine.connect() as connection:
        plan = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS) {text_}", arguments)
        return "\n".join(plan.scalars())


_FINISHED = """INSERT INTO shop.outbox (message_id, subscriber, name, version, payload, context, state, attempts,
created_at, due_at, finished_at) SELECT n::text, 'mail.write_letter', 'shop.order_placed', 1, '{{}}', '{{}}',
'completed', 1, now(), now(), now() FROM generate_series(1, :many) AS n""".replace("{{}}", "{}")

ON_BOTH: tuple[Scenario, ...] = (killed_at_random, killed_at_named_points, many_writers, frozen)
ON_POSTGRESQL: tuple[Scenario, ...] = (refused, fatal, deaf, a_million_done)
