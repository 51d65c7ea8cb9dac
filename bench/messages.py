"""Measure the delivery of messages, compared with a simple loop: `make messages`."""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table as Shown
from sqlalchemy import Table

from kernel.ext.messaging.bus import MessageBus
from kernel.ext.messaging.envelope import Envelope
from kernel.testing import create_database, postgresql_server
from tests.faults.harness import Shop, percentiles, shop
from tests.faults.messages import as_seconds, delays
from tests.messaging.shop import place

Deliver = Callable[[Shop], contextlib.AbstractAsyncContextManager[None]]

SUBSCRIBER = "mail.write_letter"


async def throughput(here: Shop, many: int, deliver: Deliver) -> float:
    """Return the messages per second that are handled from a backlog of this size."""
    outbox = here.kernel.get(MessageBus).outboxes["shop"]
    async with outbox.database.transaction() as session:
        for number in range(many):
            payload = f'{{"number": {number}, "customer": null}}'
            envelope = Envelope(id=f"{number:032}", name="shop.order_placed", version=1, key=None, payload=payload)
            await outbox.add(session, envelope, [SUBSCRIBER])
    async with deliver(here):
        await here.until_drained(600)
    [[first, last, handled]] = await here.rows(
        "mail", "SELECT min(written_at), max(written_at), count(*) FROM {s}letters"
    )
    if handled != many:
        raise RuntimeError(f"{handled} of {many} were handled")
    return many / (as_seconds(last) - as_seconds(first))


async def latency(here: Shop, many: int, deliver: Deliver) -> tuple[float, float]:
    """Return milliseconds from just before the commit to the handler, p50 and p99, for single messages."""
    async with deliver(here):
        await place(here.kernel, -1)
        await here.until_drained()
        return percentiles(await delays(here, range(1_000_000, 1_000_000 + many)))


def relays(count: int) -> Deliver:
    """Run this number of `kernel relay` processes."""

    @contextlib.asynccontextmanager
    async def running(here: Shop) -> AsyncIterator[None]:
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(here.process("relay"))
            yield

    return running


@contextlib.asynccontextmanager
async def naive(here: Shop) -> AsyncIterator[None]:
    """Deliver with a simple loop that sleeps for a second if there is no row.

    It takes the oldest row, runs its handler in a transaction and marks the row. It has no inbox.
    """
    outbox = here.kernel.get(MessageBus).outboxes["shop"]
    table, mail = outbox.table, here.kernel.contexts["mail"].database
    letters: Table = next(one for one in here.kernel.modules if one.name == "mail").metadata.tables["letters"]  # type: ignore[union-attr]  # it has tables

    async def loop() -> None:
        oldest = table.select().where(table.c.state == "pending").order_by(table.c.id).limit(1)
        while True:
            async with outbox.database.transaction() as session:
                row = (await session.execute(oldest)).mappings().first()
            if row is None:
                await asyncio.sleep(1)
                continue
            message = Envelope(id=row["message_id"], name=row["name"], version=1, key=None, payload=row["payload"])
            async with mail.transaction() as session:
                await session.execute(letters.insert().values(number=_number(message), customer=None))
            async with outbox.database.transaction() as session:
                done = {"state": "completed", "finished_at": row["created_at"]}
                await session.execute(table.update().where(table.c.id == row["id"]).values(done))

    task = asyncio.create_task(loop())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _number(message: Envelope) -> int:
    return int(message.payload.partition(":")[2].partition(",")[0])


async def measure(
    folder: Path,
    url: Callable[[], str],
    many: int,
    how: str,
    deliver: Deliver,
) -> list[str]:
    """Return one row of the table."""
    longer = {"MESSAGING_HANDLER_TIMEOUT_SECONDS": "30"}
    async with shop(folder, url(), **longer) as here:
        rate = await throughput(here, many, deliver)
    async with shop(folder, url(), **longer) as here:
        p50, p99 = await latency(here, max(50, many // 20), deliver)
    return [here.kind, how, f"{rate:,.0f}", f"{p50:.1f}", f"{p99:.1f}"]


def main() -> int:
    """Measure on both databases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="whether it works, not how fast it is")
    many = 300 if parser.parse_args().quick else 5000
    shown = Shown("Database", "Delivered by", "Messages/s", "Commit to handler p50 (ms)", "p99 (ms)")
    ways: list[tuple[str, Deliver]] = [
        ("one relay", relays(1)), ("two relays", relays(2)), ("a naive loop", naive)
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as name, postgresql_server(Path(name) / "postgresql") as server:
        folder, made = Path(name), iter(range(1000))
        urls: dict[str, Callable[[], str]] = {
            "postgresql": lambda: create_database(server, f"m{next(made)}").render_as_string(hide_password=False),
            "sqlite": lambda: f"sqlite:///{folder / f'data{next(made)}'}",
        }
        for kind, url in urls.items():
            for how, deliver in ways:
                started_at = time.monotonic()
                row = asyncio.run(measure(folder, url, many if kind == "postgresql" else many // 5, how, deliver))
                print(f"{kind}, {how}: {', '.join(row[2:])} ({time.monotonic() - started_at:.0f} s)", flush=True)
                shown.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(shown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
