"""How a relay assigns its places to subscribers, and how it handles outages."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog

from kernel.application import Application
from kernel.ext.messaging.bus import MessageBus
from kernel.ext.messaging.envelope import Envelope
from kernel.ext.messaging.outbox import Delivery, Outbox
from tests.core.waiting import until
from tests.messaging.shop import FILES, place, rows, running_shop
from tests.messaging.test_telling import URL

SLOW = "".join(
    f"""
@subscribe(OrderPlaced)
async def slow_{number}(message: OrderPlaced) -> None:
    await asyncio.sleep(3)
"""
    for number in range(3)
)


@pytest.mark.alone
async def test_slow_subscribers_leave_places_for_others(tmp_path: Path, empty_url: str) -> None:
    """They wait for sixty messages; without the reserved places, the letters would wait too."""
    files = {"mail/handlers.py": _with(SLOW)}
    settings = {"MESSAGING_HANDLER_TIMEOUT_SECONDS": "4", "MESSAGING_STOP_SECONDS": "0"}
    async with running_shop(tmp_path, empty_url, files, MESSAGING_RELAY="false", **settings) as (app, _client):
        for number in range(20):
            await place(app.kernel, number)
        async with app.kernel.get(MessageBus).running():
            started_at = time.monotonic()

            async def all_written() -> bool:
                return len(await rows(app, "mail", "letters")) == 20

            await until(all_written)
            assert time.monotonic() - started_at < 3


def _with(handlers: str) -> str:
    return FILES["mail/handlers.py"] + handlers


async def test_an_outage_uses_up_no_attempts(tmp_path: Path, empty_url: str) -> None:
    failing = _with(
        """
from kernel.modules.contracts import ContractUnavailable
asked = []

@subscribe(OrderPlaced)
async def ask(message: OrderPlaced) -> None:
    asked.append(1)
    if len(asked) < 5:
        raise ContractUnavailable("down")
"""
    )
    settings = {"MESSAGING_MAX_ATTEMPTS": "2", "MESSAGING_POLL_SECONDS": "0.05"}
    async with running_shop(tmp_path, empty_url, {"mail/handlers.py": failing}, **settings) as (app, client):
        await client.post(URL, json={"number": 1})

        async def all_completed() -> bool:
            return {row["state"] for row in await rows(app, "shop", "outbox")} == {"completed"}

        await until(all_completed)
        assert {row["attempts"] for row in await rows(app, "shop", "outbox")} == {1}


async def test_pauses_grow_while_an_outage_lasts(tmp_path: Path, empty_url: str) -> None:
    failing = _with(
        """
from kernel.modules.contracts import ContractUnavailable
asked = []

@subscribe(OrderPlaced)
async def ask(message: OrderPlaced) -> None:
    asked.append(1)
    if len(asked) < 6:
        raise ContractUnavailable("down")
"""
    )
    settings = {"MESSAGING_POLL_SECONDS": "0.05", "MESSAGING_BACKOFF_SECONDS": "0.05"}
    with structlog.testing.capture_logs() as logs:
        async with running_shop(tmp_path, empty_url, {"mail/handlers.py": failing}, **settings) as (app, client):
            await client.post(URL, json={"number": 1})

            async def all_completed() -> bool:
                return {row["state"] for row in await rows(app, "shop", "outbox")} == {"completed"}

            await until(all_completed)
    pauses = [log["again_in_seconds"] for log in logs if log["event"] == "message waits for the end of an outage"]
    assert len(pauses) == 5
    assert all(0.05 * 2**turn / 2 - 0.01 <= pause <= 0.05 * 2**turn for turn, pause in enumerate(pauses)), pauses


async def test_an_outage_of_one_message_does_not_delay_others(tmp_path: Path, empty_url: str) -> None:
    failing = FILES["mail/handlers.py"].replace(
        "    if settings.delay_seconds:",
        "    if message.number == 7:\n"
        "        from kernel.modules.contracts import ContractUnavailable\n"
        "        raise ContractUnavailable('down for this one')\n"
        "    if settings.delay_seconds:",
    )
    settings = {"MESSAGING_POLL_SECONDS": "0.05", "MESSAGING_MAX_BACKOFF_SECONDS": "0.1"}
    async with running_shop(tmp_path, empty_url, {"mail/handlers.py": failing}, **settings) as (app, client):
        for number in (7, *range(20, 40)):
            await client.post(URL, json={"number": number})

        async def others_written() -> bool:
            return len(await rows(app, "mail", "letters")) == 20

        await until(others_written)
        [waiting] = [row for row in await rows(app, "shop", "outbox") if row["state"] != "completed"]
        assert waiting["attempts"] <= 1


async def test_a_contract_that_answers_with_an_error_counts_as_an_attempt(tmp_path: Path, empty_url: str) -> None:
    failing = _with(
        """
from kernel.modules.contracts import ContractBroken

@subscribe(OrderPlaced)
async def ask(message: OrderPlaced) -> None:
    raise ContractBroken("Prices.of was answered with 500")
"""
    )
    files = {"mail/handlers.py": failing}
    async with running_shop(tmp_path, empty_url, files, MESSAGING_MAX_ATTEMPTS="2") as (app, client):
        await client.post(URL, json={"number": 1})
        assert await until(partial(_abandoned, app)) == [(2, "ContractBroken: Prices.of was answered with 500")]


async def test_a_statement_that_always_exceeds_its_timeout_counts_as_an_attempt(tmp_path: Path, empty_url: str) -> None:
    """The database answers, and the statement is slow. Repeating it for ever would block its key."""
    if empty_url.startswith("sqlite"):
        pytest.skip("SQLite has no timeout for statements")
    failing = FILES["mail/handlers.py"].replace(
        "    if settings.delay_seconds:",
        "    if message.number == 7:\n"
        "        from sqlalchemy import text\n"
        "        await letters.session.execute(text('SELECT pg_sleep(20)'))\n"
        "    if settings.delay_seconds:",
    )
    settings = {"MESSAGING_MAX_ATTEMPTS": "2", "DATABASE_COMMAND_TIMEOUT_SECONDS": "0.5"}
    async with running_shop(tmp_path, empty_url, {"mail/handlers.py": failing}, **settings) as (app, client):
        for number in (7, 8):
            await client.post(URL, json={"number": number, "customer": "one"})
        [(attempts, error)] = await until(partial(_abandoned, app))
        assert (attempts, error.partition(":")[0]) == (2, "DatabaseUnavailable")
        await until(lambda: rows(app, "mail", "letters"))
        assert [row["number"] for row in await rows(app, "mail", "letters")] == [8], (
            "the next message of its key is delivered"
        )


async def _abandoned(app: Application) -> list[tuple[int, str]]:
    found = [row for row in await rows(app, "shop", "outbox") if row["state"] == "abandoned"]
    return [(row["attempts"], row["error"]) for row in found]


async def test_a_handler_that_cancels_itself_has_failed(tmp_path: Path, empty_url: str) -> None:
    cancelling = _with(
        """
@subscribe(OrderPlaced)
async def cancel(message: OrderPlaced) -> None:
    raise asyncio.CancelledError
"""
    )
    settings = {"MESSAGING_MAX_ATTEMPTS": "2"}
    async with running_shop(tmp_path, empty_url, {"mail/handlers.py": cancelling}, **settings) as (app, client):
        await client.post(URL, json={"number": 1})

        async def abandoned() -> list[str]:
            return [row["error"] for row in await rows(app, "shop", "outbox") if row["state"] == "abandoned"]

        assert await until(abandoned) == ["CancelledError: "]


async def test_the_error_of_a_slow_handler_names_the_setting_that_ended_it(tmp_path: Path, empty_url: str) -> None:
    settings = {"MAIL_DELAY_SECONDS": "5", "MESSAGING_HANDLER_TIMEOUT_SECONDS": "0.2", "MESSAGING_MAX_ATTEMPTS": "1"}
    async with running_shop(tmp_path, empty_url, **settings) as (app, client):
        await client.post(URL, json={"number": 1})

        async def abandoned() -> list[str]:
            return [row["error"] for row in await rows(app, "shop", "outbox") if row["state"] == "abandoned"]

        [error] = await until(abandoned)
        assert error == "it was not done within 0.2 s (MESSAGING_HANDLER_TIMEOUT_SECONDS)"
        assert await rows(app, "mail", "letters") == []


@pytest.mark.integration
@pytest.mark.alone
async def test_deliveries_that_are_cancelled_at_the_stop_are_released_at_once(tmp_path: Path, empty_url: str) -> None:
    settings = {"MAIL_DELAY_SECONDS": "20", "MESSAGING_STOP_SECONDS": "0.3"}
    async with running_shop(tmp_path, empty_url, MESSAGING_RELAY="false", **settings) as (app, _client):
        for number in range(20):
            await place(app.kernel, number)
        async with app.kernel.get(MessageBus).running():

            async def begun() -> bool:
                return "processing" in {row["state"] for row in await rows(app, "shop", "outbox")}

            await until(begun)
            started_at = time.monotonic()
        assert time.monotonic() - started_at < 3
        left = await rows(app, "shop", "outbox")
        assert {row["state"] for row in left} == {"failed", "pending"}
        assert {row["attempts"] for row in left} == {0}


async def test_a_row_of_another_message_is_not_given_to_a_handler(tmp_path: Path, empty_url: str) -> None:
    async with running_shop(tmp_path, empty_url) as (app, client):
        outbox = app.kernel.get(MessageBus).outboxes["shop"]
        other = Envelope(id="0" * 32, name="shop.order_paid", version=1, key=None, payload='{"number": 7}')
        async with outbox.database.transaction() as session:
            await outbox.add(session, other, ["mail.write_letter"])
        await client.post(URL, json={"number": 8})
        await until(lambda: rows(app, "mail", "letters"))
        assert [row["number"] for row in await rows(app, "mail", "letters")] == [8]
        assert (await rows(app, "shop", "outbox"))[0]["state"] == "pending"


@pytest.mark.slow
async def test_a_long_queue_of_one_key_is_not_read_for_each_claim(
    tmp_path: Path, empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 rows of one key once took 22 claims per second: each claim read all of them."""
    looks = 0
    claim = Outbox.claim

    async def counted(self: Outbox, *arguments: Any) -> list[Delivery]:
        nonlocal looks
        looks += 1
        return await claim(self, *arguments)

    monkeypatch.setattr(Outbox, "claim", counted)
    async with running_shop(tmp_path, empty_url, MESSAGING_RELAY="false") as (app, _client):
        many = 200
        outbox = app.kernel.get(MessageBus).outboxes["shop"]
        async with outbox.database.transaction() as session:
            for number in range(many):
                payload = f'{{"number": {number}, "customer": "c"}}'
                one = Envelope(id=f"{number:032}", name="shop.order_placed", version=1, key="c", payload=payload)
                await outbox.add(session, one, ["mail.write_letter"])
        async with app.kernel.get(MessageBus).running():

            async def all_written() -> bool:
                return len(await rows(app, "mail", "letters")) == many

            await until(all_written, seconds=60)
        assert 0 < looks < many / 4
        assert [row["number"] for row in await rows(app, "mail", "letters")] == list(range(many))
