"""The commands that inspect outboxes, and repairs by hand."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from kernel.ext.messaging.bus import MessageBus
from kernel.ext.messaging.operations import backlog, find, forget, retry
from kernel.ext.messaging.tables import State
from kernel.ext.messaging.watch import DeliveryWatch
from kernel.health import Degraded
from kernel.runtime import Kernel
from tests.core.project import imported_alone, settings_for
from tests.core.waiting import until
from tests.messaging.shop import place, rows, running_shop, shop_kernel, write_shop
from tests.messaging.test_outbox import WHOM, put, take
from tests.messaging.test_telling import URL

KERNEL = str(Path(sys.executable).with_name("kernel"))


async def test_the_backlog_has_the_waiting_subscribers_and_the_age(tmp_path: Path, empty_url: str) -> None:
    async with shop_kernel(tmp_path, empty_url) as kernel:
        outbox = await put(kernel, None, None, None)
        done, lost, _ = await take(outbox)
        await outbox.complete(done)
        await outbox.fail(lost, "no", None)
        found = {row.state: row for row in await backlog(outbox)}
        assert set(found) == {State.PROCESSING, State.ABANDONED}
        assert (found[State.PROCESSING].messages, found[State.PROCESSING].attempts) == (1, 1)
        assert 0 <= found[State.PROCESSING].oldest_seconds < 60
        assert State.COMPLETED in {row.state for row in await backlog(outbox, with_completed=True)}


async def test_messages_in_a_newer_version_are_not_delivered_here(tmp_path: Path, empty_url: str) -> None:
    async with shop_kernel(tmp_path, empty_url) as kernel:
        outbox = await put(kernel, None)
        [row] = await backlog(outbox)
        assert (row.newest, kernel.get(MessageBus).reads(row.subscriber, row.newest)) == (1, True)
        await put(kernel, None, version=2)
        [row] = await backlog(outbox)
        assert (row.newest, kernel.get(MessageBus).reads(row.subscriber, row.newest)) == (2, False)
        assert not kernel.get(MessageBus).reads("gone.handler", 1)


async def test_messages_in_a_newer_version_that_wait_for_long_degrade_readiness(tmp_path: Path) -> None:
    async with running_shop(tmp_path, f"sqlite:///{tmp_path / 'data'}", MESSAGING_POLL_SECONDS="0.01") as (app, _):
        await put(app.kernel, None, version=2)
        async with asyncio.timeout(30):
            while not app.kernel.get(DeliveryWatch).problems():
                await app.kernel.get(DeliveryWatch).look()
        with pytest.raises(Degraded, match=r"wait for mail.write_letter, some in version 2, which the code"):
            await app.kernel.get(DeliveryWatch).check()


async def test_an_abandoned_message_can_be_retried(tmp_path: Path, empty_url: str) -> None:
    async with shop_kernel(tmp_path, empty_url) as kernel:
        outbox = await put(kernel, None, None, None)
        first, second, third = await take(outbox)
        await outbox.fail(first, "no", None)
        await outbox.fail(second, "no", None)
        await outbox.fail(third, "later", 1000)
        assert await retry(outbox, [first.id]) == [first.id]
        assert [(one.id, one.attempt) for one in await take(outbox)] == [(first.id, 1)]
        assert await retry(outbox) == [second.id, third.id]
        assert [(one.id, one.attempt) for one in await take(outbox)] == [(second.id, 1), (third.id, 2)]


async def test_messages_for_a_removed_subscriber_can_be_deleted(tmp_path: Path, empty_url: str) -> None:
    async with shop_kernel(tmp_path, empty_url) as kernel:
        await put(kernel, None, None, subscriber="gone.handler")
        outbox = await put(kernel, None)
        assert await forget(outbox, "gone.handler") == 2
        assert [row["subscriber"] for row in await rows(kernel, "shop", "outbox")] == [WHOM]


async def test_messages_for_a_removed_handler_are_reported_at_the_start(tmp_path: Path, empty_url: str) -> None:
    async with shop_kernel(tmp_path, empty_url) as kernel:
        await put(kernel, None, subscriber="mail.old_name")
    with structlog.testing.capture_logs() as logs:
        async with running_shop(tmp_path, empty_url) as (app, _client):
            [found] = [log["reason"] for log in logs if log["event"] == "messages are not delivered"]
            assert found.startswith("1 message(s) of shop wait for mail.old_name: mail has no handler old_name.")
            with pytest.raises(Degraded, match=r"kernel messages move mail\.old_name"):
                await app.kernel.health_checks()["messages"]()


async def test_only_old_completed_rows_are_purged(tmp_path: Path, empty_url: str) -> None:
    async with shop_kernel(tmp_path, empty_url, MESSAGING_KEEP_COMPLETED_DAYS="0") as kernel:
        outbox = await put(kernel, None, None, None)
        done, lost, _ = await take(outbox)
        await outbox.complete(done)
        await outbox.fail(lost, "no", None)
        assert await kernel.get(MessageBus).purge() == 1
        assert [row["id"] for row in await rows(kernel, "shop", "outbox")] == [2, 3]
        assert [row["state"] for row in await find(outbox, [State.ABANDONED])] == ["abandoned"]


async def test_the_inbox_outlives_the_outbox(tmp_path: Path, empty_url: str) -> None:
    async with running_shop(tmp_path, empty_url, MESSAGING_KEEP_COMPLETED_DAYS="0") as (app, client):
        await client.post(URL, json={"number": 1})
        await until(lambda: rows(app, "mail", "inbox"))

        async def purged() -> bool:
            return bool(await app.kernel.get(MessageBus).purge())

        await until(purged)
        assert len(await rows(app, "mail", "inbox")) == 1


@pytest.mark.slow
def test_the_command_lists_and_repairs_messages(tmp_path: Path) -> None:
    write_shop(tmp_path)
    variables = {"ENVIRONMENT": "dev", "AUTH_ENABLED": "false", "DATABASE_URL": f"sqlite:///{tmp_path / 'data'}"}

    def kernel(*words: str, code: int = 0) -> str:
        ran = subprocess.run(
            [KERNEL, *words], cwd=tmp_path, env=os.environ | variables, text=True, capture_output=True, check=False
        )
        assert ran.returncode == code, ran.stderr
        return ran.stdout + ran.stderr

    assert "has all migrations (`kernel migrate`)." in kernel("messages", "status", code=1)
    kernel("migrate")
    assert kernel("messages", "status") == "No messages.\n"
    asyncio.run(_abandon_one(tmp_path, variables))
    [row] = json.loads(kernel("messages", "status", "--json"))
    assert (row["subscriber"], row["state"], row["messages"], row["delivered_here"]) == (WHOM, "abandoned", 1, True)
    assert "no such address" in kernel("messages", "abandoned")
    assert kernel("messages", "failed") == "Nothing is failed.\n"
    assert json.loads(kernel("messages", "show", "shop", "1"))["payload"] == "{}"
    assert "no message 2 in its outbox" in kernel("messages", "show", "shop", "2", code=1)
    assert "There is no module nobody with an outbox. Modules with one: shop, mail." in kernel(
        "messages", "retry", "nobody", "--all", code=1
    )
    assert "by their ids, or use --all" in kernel("messages", "retry", "shop", code=1)
    assert kernel("messages", "retry", "shop", "1") == "Will be delivered again: 1\n"
    assert "No failed or abandoned messages with these ids: 1, 2" in kernel(
        "messages", "retry", "shop", "1", "2", code=1
    )
    assert kernel("messages", "purge") == "Removed: 0\n"
    assert "exists and gets its messages" in kernel("messages", "purge", "--subscriber", WHOM, code=1)
    assert kernel("messages", "purge", "--subscriber", "gone.handler") == "Removed: 0\n"


async def _abandon_one(root: Path, variables: dict[str, str]) -> None:
    with imported_alone():
        kernel = Kernel(settings_for(root, variables))
        async with kernel.running(serving=False):
            outbox = await put(kernel, None)
            [one] = await take(outbox)
            await outbox.fail(one, "ValueError: no such address", None)


@pytest.mark.integration
def test_a_relay_stops_on_a_signal_and_finishes_started_deliveries(tmp_path: Path) -> None:
    write_shop(tmp_path)
    variables = {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'data'}",
        "MAIL_DELAY_SECONDS": "1",
        "MESSAGING_POLL_SECONDS": "0.1",
        "LOG_LEVEL": "INFO",
    }
    asyncio.run(_place_one(tmp_path, variables))
    relay = subprocess.Popen([KERNEL, "relay"], cwd=tmp_path, env=os.environ | variables, stdout=subprocess.PIPE)
    assert relay.stdout is not None
    try:
        assert b"started" in relay.stdout.readline()
        asyncio.run(until(lambda: _begun(tmp_path, variables)))  # A handler takes a second.
        relay.send_signal(signal.SIGTERM)
        assert relay.wait(10) == 0
    finally:
        relay.kill()
        relay.stdout.close()
    assert asyncio.run(_letters(tmp_path, variables)) == [1]


async def _place_one(root: Path, variables: dict[str, str]) -> None:
    with imported_alone():
        kernel = Kernel(settings_for(root, variables))
        async with kernel.running(serving=False):
            await place(kernel, 1)


async def _begun(root: Path, variables: dict[str, str]) -> bool:
    with imported_alone():
        kernel = Kernel(settings_for(root, variables))
        async with kernel.running(serving=False):
            [row] = await rows(kernel, "shop", "outbox")
            return bool(row["attempts"])


async def _letters(root: Path, variables: dict[str, str]) -> list[int]:
    with imported_alone():
        kernel = Kernel(settings_for(root, variables))
        async with kernel.running(serving=False):
            return [row["number"] for row in await rows(kernel, "mail", "letters")]
