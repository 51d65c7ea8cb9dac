"""From the publisher's transaction to the subscriber's effect, on both databases."""

from pathlib import Path
from typing import Any

import pytest
import structlog

from kernel.ext.messaging import Message
from kernel.ext.messaging.bus import MessageBus
from kernel.ext.messaging.outbox import PublishError, publish
from tests.core.waiting import until
from tests.messaging.shop import rows, running_shop

URL = "/api/v1/shop"


async def test_a_published_message_takes_effect_once(tmp_path: Path, empty_url: str) -> None:
    async with running_shop(tmp_path, empty_url) as (app, client):
        for number in range(20):
            assert (await client.post(URL, json={"number": number})).status_code == 201

        async def all_completed() -> bool:
            sent = await rows(app, "shop", "outbox")
            return len(sent) == 20 and {row["state"] for row in sent} == {"completed"}

        await until(all_completed)
        letters = await rows(app, "mail", "letters")
        assert sorted(row["number"] for row in letters) == list(range(20))
        assert {row["attempts"] for row in await rows(app, "shop", "outbox")} == {1}
        assert {row["subscriber"] for row in await rows(app, "mail", "inbox")} == {"mail.write_letter"}


async def test_a_rolled_back_message_is_not_published(tmp_path: Path, empty_url: str) -> None:
    async with running_shop(tmp_path, empty_url) as (app, client):
        assert (await client.post(URL, json={"number": 1, "fails": True})).status_code == 422
        assert await rows(app, "shop", "outbox") == []


async def test_a_failing_handler_is_retried_and_finally_abandoned(tmp_path: Path, empty_url: str) -> None:
    trouble = {"MAIL_REFUSED": "7", "MESSAGING_MAX_ATTEMPTS": "3"}
    async with running_shop(tmp_path, empty_url, **trouble) as (app, client):
        await client.post(URL, json={"number": 7})
        await client.post(URL, json={"number": 8})

        async def abandoned() -> list[dict[str, Any]]:
            return [row for row in await rows(app, "shop", "outbox") if row["state"] == "abandoned"]

        [row] = await until(abandoned)
        assert (row["attempts"], row["error"]) == (3, "ValueError: no such address")
        assert [letter["number"] for letter in await rows(app, "mail", "letters")] == [8]


async def test_a_second_delivery_of_a_handled_message_has_no_effect(tmp_path: Path, empty_url: str) -> None:
    async with running_shop(tmp_path, empty_url, MESSAGING_POLL_SECONDS="60") as (app, client):
        await client.post(URL, json={"number": 1})

        async def completed() -> list[dict[str, Any]]:
            return [row for row in await rows(app, "shop", "outbox") if row["state"] == "completed"]

        await until(completed)
        outbox = app.kernel.get(MessageBus).outboxes["shop"]
        columns = outbox.table.c
        as_if_new = outbox.table.update().values(state="pending", finished_at=None, due_at=columns.created_at)
        await outbox.database.run(as_if_new.returning(columns.id))
        await outbox.wake()

        async def again() -> list[dict[str, Any]]:
            return [row for row in await completed() if row["attempts"] == 2]

        await until(again)
        assert len(await rows(app, "mail", "letters")) == 1


async def test_the_request_id_reaches_the_log_of_the_handler(tmp_path: Path, empty_url: str) -> None:
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        async with running_shop(tmp_path, empty_url) as (app, client):
            await client.post(URL, json={"number": 1}, headers={"X-Request-ID": "follow-me"})
            await until(lambda: rows(app, "mail", "letters"))
    assert "follow-me" in {log.get("request_id") for log in logs if log["event"] == "message delivered"}


async def test_a_message_published_in_a_read_is_refused(tmp_path: Path, empty_url: str) -> None:
    async with running_shop(tmp_path, empty_url) as (_app, client):
        answer = await client.get(URL)
        assert answer.status_code == 500
        assert "publish in a POST, PUT, PATCH or DELETE" in str(answer.json()["traceback"])


async def test_a_message_that_is_too_large_is_refused_when_it_is_published(tmp_path: Path, empty_url: str) -> None:
    async with running_shop(tmp_path, empty_url, MESSAGING_MAX_MESSAGE_BYTES="400") as (_app, client):
        assert (await client.post(URL, json={"number": 1})).status_code == 201
        refused = await client.post(URL, json={"number": 2, "customer": "c" * 150})
        assert "more than the 400 of MESSAGING_MAX_MESSAGE_BYTES" in str(refused.json()["traceback"])


async def test_a_message_of_another_module_is_refused(tmp_path: Path, empty_url: str) -> None:
    class Foreign(Message):
        number: int

    async with running_shop(tmp_path, empty_url) as (app, _client):
        async with app.kernel.contexts["shop"].database.transaction():
            with pytest.raises(PublishError, match=r"shop may publish its own only"):
                await publish(Foreign(number=1))
        with pytest.raises(PublishError, match="outside of a transaction"):
            await publish(Foreign(number=1))


async def test_a_message_without_a_key_waits_for_no_other(tmp_path: Path, empty_url: str) -> None:
    async with running_shop(tmp_path, empty_url, MESSAGING_RELAY="false") as (app, client):
        await client.post(URL, json={"number": 1})
        await client.post(URL, json={"number": 2, "customer": "c"})
        assert [row["key"] for row in await rows(app, "shop", "outbox")] == [None, "c"]
        refused = await client.post(URL, json={"number": 2, "customer": "c" * 201})
        assert "more than 200 characters" in str(refused.json()["traceback"])


async def test_a_retry_of_a_handled_message_has_no_effect(tmp_path: Path, empty_url: str) -> None:
    """After `kernel messages retry` the first attempt counts again: the inbox's key refuses a second effect."""
    async with running_shop(tmp_path, empty_url, MESSAGING_POLL_SECONDS="60") as (app, client):
        await client.post(URL, json={"number": 1})
        await until(lambda: rows(app, "mail", "inbox"))
        outbox = app.kernel.get(MessageBus).outboxes["shop"]
        columns = outbox.table.c

        async def is_completed() -> bool:
            return {row["state"] for row in await rows(app, "shop", "outbox")} == {"completed"}

        await until(is_completed)
        anew = {"state": "pending", "finished_at": None, "attempts": 0, "due_at": columns.created_at}
        await outbox.database.run(outbox.table.update().values(anew).returning(columns.id))
        await outbox.wake()
        await until(is_completed)
        assert {row["attempts"] for row in await rows(app, "shop", "outbox")} == {1}
        assert len(await rows(app, "mail", "letters")) == 1
