"""Claims and completions: which process holds a message, for how long, and in which order."""

import asyncio
import time
from pathlib import Path
from secrets import token_hex

import pytest
from sqlalchemy import update

from kernel.ext.messaging.bus import MessageBus
from kernel.ext.messaging.envelope import Envelope
from kernel.ext.messaging.outbox import AttemptLimits, Delivery, Outbox, Wanted
from kernel.ext.messaging.tables import State, clock
from kernel.runtime import Kernel
from tests.core.waiting import until
from tests.messaging.shop import rows, shop_kernel

WHOM = "mail.write_letter"


def envelope(key: str | None, version: int = 1) -> Envelope:
    return Envelope(id=token_hex(16), name="shop.order_placed", version=version, key=key, payload="{}")


async def put(kernel: Kernel, *keys: str | None, version: int = 1, subscriber: str = WHOM) -> Outbox:
    """Put messages with these keys into the outbox of shop, and return it."""
    outbox = kernel.get(MessageBus).outboxes["shop"]
    async with outbox.database.transaction() as session:
        for key in keys:
            await outbox.add(session, envelope(key, version), [subscriber])
    return outbox


async def take(outbox: Outbox, limit: int = 10, seconds: float = 60, max_attempts: int = 3) -> list[Delivery]:
    return await outbox.claim({WHOM: Wanted("shop.order_placed", 1)}, limit, AttemptLimits(seconds, max_attempts))


async def test_a_claimed_message_cannot_be_claimed_again_before_its_lease_ends(tmp_path: Path, empty_url: str) -> None:
    async with shop_kernel(tmp_path, empty_url) as kernel:
        outbox = await put(kernel, None, None)
        first, second = await take(outbox, seconds=0.2)
        assert (first.id, second.id, first.attempt) == (1, 2, 1)
        assert await take(outbox) == []
        again = await until(lambda: take(outbox))
        assert [(one.id, one.attempt) for one in again] == [(1, 2), (2, 2)]


async def test_an_attempt_whose_message_was_taken_over_cannot_complete(tmp_path: Path, empty_url: str) -> None:
    async with shop_kernel(tmp_path, empty_url) as kernel:
        outbox = await put(kernel, None)
        [slow] = await take(outbox, seconds=0)
        [other] = await take(outbox)
        assert not await outbox.complete(slow)
        assert not await outbox.fail(slow, "too late", 0)
        assert await outbox.complete(other)
        assert not await outbox.complete(other)
        [row] = await rows(kernel, "shop", "outbox")
        assert (row["state"], row["attempts"], row["error"]) == ("completed", 2, None)


async def test_simultaneous_claims_get_different_messages(tmp_path: Path, empty_url: str) -> None:
    async with shop_kernel(tmp_path, empty_url) as kernel:
        outbox = await put(kernel, *[None] * 30)
        claims = await asyncio.gather(*(take(outbox, limit=5) for _ in range(8)))
        claimed = [one.id for claim in claims for one in claim]
        assert len(claimed) == len(set(claimed))
        claimed += [one.id for one in await take(outbox, limit=30)]
        assert sorted(claimed) == list(range(1, 31))


@pytest.mark.slow
async def test_the_next_message_of_a_key_is_found_as_fast_with_many_of_another_key(
    tmp_path: Path, empty_url: str
) -> None:
    """If PostgreSQL reads each waiting row, it takes more than twenty times as long."""
    async with shop_kernel(tmp_path, empty_url) as kernel:
        outbox = await put(kernel, "long")
        await take(outbox, limit=1)
        wanted, limits = Wanted("shop.order_placed", 1), AttemptLimits(60, 3)
        fastest = []
        for many in (100, 3000):
            await put(kernel, *["long"] * many, *[f"short {many}"] * 20)
            [one] = await take(outbox, limit=1)
            times = []
            for _ in range(19):
                await outbox.complete(one)
                begun = time.perf_counter()
                [one] = await outbox.claim_next(one, wanted, limits)
                times.append(time.perf_counter() - begun)
                assert one.envelope.key == f"short {many}"
            fastest.append(min(times))
        assert fastest[1] < 10 * fastest[0], fastest


async def test_messages_of_one_key_are_delivered_one_after_the_other(tmp_path: Path, empty_url: str) -> None:
    async with shop_kernel(tmp_path, empty_url) as kernel:
        outbox = await put(kernel, "a", "a", "b", None)
        first = await take(outbox)
        assert [one.id for one in first] == [1, 3, 4]
        assert await take(outbox) == []
        assert await outbox.fail(first[0], "again", 0)
        [again] = await take(outbox)
        assert (again.id, again.attempt) == (1, 2)
        assert await outbox.complete(again)
        assert [one.id for one in await take(outbox)] == [2]


async def test_an_abandoned_message_no_longer_blocks_its_key(tmp_path: Path, empty_url: str) -> None:
    async with shop_kernel(tmp_path, empty_url) as kernel:
        outbox = await put(kernel, "a", "a")
        [first] = await take(outbox)
        assert await outbox.fail(first, "no", None)
        assert [one.id for one in await take(outbox)] == [2]


async def test_attempts_that_end_with_their_process_count(tmp_path: Path, empty_url: str) -> None:
    async with shop_kernel(tmp_path, empty_url) as kernel:
        outbox = await put(kernel, None)
        for attempt in (1, 2, 3):
            assert [one.attempt for one in await take(outbox, seconds=0)] == [attempt]
        [given_up] = await take(outbox, seconds=0)
        assert given_up.state is State.ABANDONED
        assert await take(outbox) == []
        [row] = await rows(kernel, "shop", "outbox")
        assert (row["state"], row["attempts"]) == ("abandoned", 3)
        assert row["error"] == "the process ended during the attempt"


async def test_messages_that_cannot_be_served_here_stay(tmp_path: Path, empty_url: str) -> None:
    async with shop_kernel(tmp_path, empty_url) as kernel:
        await put(kernel, None, version=2)
        outbox = await put(kernel, None, subscriber="gone.handler")
        assert await take(outbox) == []
        assert {row["state"] for row in await rows(kernel, "shop", "outbox")} == {"pending"}


async def test_leases_use_the_clock_of_the_database(tmp_path: Path, empty_url: str) -> None:
    async with shop_kernel(tmp_path, empty_url) as kernel:
        outbox = await put(kernel, None)
        table = outbox.table
        await outbox.database.run(update(table).values(due_at=clock(0.3)).returning(table.c.id))
        assert await take(outbox) == []
        assert len(await until(lambda: take(outbox))) == 1


async def test_publishers_of_one_key_commit_in_the_order_of_their_rows(tmp_path: Path, empty_url: str) -> None:
    """Rows are numbered before the commit: without waiting, the later number could be committed first."""
    async with shop_kernel(tmp_path, empty_url) as kernel:
        outbox = kernel.get(MessageBus).outboxes["shop"]
        async with outbox.database.transaction() as first:
            await outbox.add(first, envelope("a"), [WHOM])
            second = asyncio.create_task(put(kernel, "a"))
            if not empty_url.startswith("sqlite"):  # SQLite has one writer at a time.
                await put(kernel, "b", None)
            await asyncio.wait([second], timeout=0.2)  # Nothing may happen in this time.
            assert not second.done()
        await second
        ours = [row for row in await rows(kernel, "shop", "outbox") if row["key"] == "a"]
        assert len(ours) == 2
