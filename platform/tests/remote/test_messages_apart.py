"""Messages between two processes: settings alone separate the modules, without a broker."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kernel.application import Application, create_app
from kernel.ext.messaging.bus import MessageBus
from kernel.ext.messaging.envelope import Envelope
from kernel.ext.messaging.inbound import NotYet, Posted
from kernel.ext.messaging.operations import move
from kernel.ext.messaging.watch import DeliveryWatch
from kernel.settings import SettingsError
from kernel.testing import project_for
from kernel.testing.booting import talking_to
from tests.core.https_server import Call, Drop, Reply
from tests.core.project import imported_alone
from tests.core.waiting import until
from tests.messaging.shop import FILES, rows, write_shop
from tests.messaging.test_outbox import put
from tests.messaging.test_telling import URL as PLACE
from tests.remote.apart import SECRET, Apart, apart
from tests.remote.two_sides import Forward

pytestmark = pytest.mark.integration


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Provide the same on SQLite only."""
    return f"sqlite:///{tmp_path / 'here'}", f"sqlite:///{tmp_path / 'there'}"


async def states(app: Application) -> list[str]:
    return [row["state"] for row in await rows(app, "shop", "outbox")]


async def all_completed(sides: Apart, many: int = 1) -> list[dict[str, Any]]:
    """Return the rows of the shop's outbox, after this number of them is completed."""

    async def completed() -> list[dict[str, Any]]:
        found = await rows(sides.shop, "shop", "outbox")
        is_done = len(found) == many and {row["state"] for row in found} == {"completed"}
        return found if is_done else []

    return list(await until(completed))


async def letters(sides: Apart) -> list[int]:
    return [row["number"] for row in await rows(sides.mail, "mail", "letters")]


async def test_a_message_is_handled_in_the_other_process_by_settings_alone(
    tmp_path: Path, databases: tuple[str, str]
) -> None:
    async with apart(tmp_path, databases) as sides:
        for number in range(10):
            await sides.client.post(PLACE, json={"number": number, "customer": "one"})
        found = await all_completed(sides, 10)
        assert {(row["subscriber"], row["attempts"]) for row in found} == {("mail.write_letter", 1)}
        assert await letters(sides) == list(range(10)), "messages of one key keep their order"
        assert await rows(sides.mail, "mail", "outbox") == [], "the inbox prevents a second effect"
        assert await sides.degraded() == ("", "")


async def test_one_database_serves_both_processes(tmp_path: Path, empty_url: str) -> None:
    async with apart(tmp_path, (empty_url, empty_url)) as sides:
        await sides.client.post(PLACE, json={"number": 1})
        await all_completed(sides)
        assert await letters(sides) == [1]


async def test_after_a_lost_answer_the_message_is_posted_again_and_handled_once(
    tmp_path: Path, databases: tuple[str, str]
) -> None:
    lost: list[str] = []

    async def lose_the_first(call: Call, forward: Forward) -> Reply | Drop:
        answer = await forward(call)
        if call.path == "/internal/messages/mail/write_letter" and not lost:
            assert isinstance(answer, Reply)
            assert answer.status == 204
            lost.append(call.path)
            return Drop()
        return answer

    async with apart(tmp_path, databases, between=lose_the_first) as sides:
        await sides.client.post(PLACE, json={"number": 1})
        [row] = await all_completed(sides)
        assert row["attempts"] == 2, "the connection broke, possibly with the process"
        assert (await letters(sides), len(lost)) == ([1], 1)


async def test_an_error_of_the_handler_counts_and_its_reason_is_kept_with_the_message(
    tmp_path: Path, databases: tuple[str, str]
) -> None:
    limit = {"MESSAGING_MAX_ATTEMPTS": "3"}
    async with apart(tmp_path, databases, shop=limit, mail={"MAIL_REFUSED": "7"}) as sides:
        for number in (7, 8):
            await sides.client.post(PLACE, json={"number": number, "customer": "one"})

        async def abandoned() -> list[dict[str, Any]]:
            return [row for row in await rows(sides.shop, "shop", "outbox") if row["state"] == "abandoned"]

        [row] = await until(abandoned)
        assert row["attempts"] == 3
        assert row["error"].startswith("ValueError: no such address (answered with 500 by ")
        await until(lambda: letters(sides))
        assert await letters(sides) == [8]


async def test_a_handler_that_takes_too_long_in_the_other_process_counts_as_an_attempt(
    tmp_path: Path, files: tuple[str, str]
) -> None:
    limit = {"MESSAGING_MAX_ATTEMPTS": "1", "MESSAGING_HANDLER_TIMEOUT_SECONDS": "0.5"}
    async with apart(tmp_path, files, shop=limit, mail={"MAIL_DELAY_SECONDS": "20"}) as sides:
        await sides.client.post(PLACE, json={"number": 7})

        async def abandoned() -> list[str]:
            found = await rows(sides.shop, "shop", "outbox")
            return [row["error"] for row in found if row["state"] == "abandoned"]

        [error] = await until(abandoned)
        assert error.startswith("it was not done within 0.5 s (MESSAGING_HANDLER_TIMEOUT_SECONDS)")


@pytest.mark.parametrize("status", [429, 503, 409])
async def test_a_process_that_is_down_or_busy_delays_and_uses_up_no_attempts(
    tmp_path: Path, files: tuple[str, str], status: int
) -> None:
    refusals = [status] * 3

    async def busy_at_first(call: Call, forward: Forward) -> Reply | Drop:
        if call.path.startswith("/internal/messages/") and refusals:
            return Reply(refusals.pop(), {"content-type": "application/json"}, b"{}")
        return await forward(call)

    limit = {"MESSAGING_MAX_ATTEMPTS": "1"}
    async with apart(tmp_path, files, between=busy_at_first, shop=limit, listening=False) as sides:
        await sides.client.post(PLACE, json={"number": 1})

        async def is_told() -> bool:
            return "mail does not answer" in (await sides.degraded())[0]

        await until(is_told)
        sides.wire.listen()
        [row] = await all_completed(sides)
        assert (row["attempts"], refusals, await letters(sides)) == (1, [], [1])
        assert await sides.degraded() == ("", "")


async def test_an_unsigned_message_is_refused(tmp_path: Path, files: tuple[str, str]) -> None:
    posted = Posted(envelope=Envelope(id="1", name="shop.order_placed", version=1, key=None, payload="{}"), seconds=1)
    async with apart(tmp_path, files) as sides, talking_to(sides.mail) as stranger:
        for path in ("messages/mail/write_letter", "messages/mail", "subscriptions/shop"):
            answer = await stranger.post(f"/internal/{path}", content=posted.model_dump_json())
            assert answer.status_code == 401
        assert await letters(sides) == []


async def test_a_message_that_is_newer_than_the_process_waits_for_its_update(
    tmp_path: Path, files: tuple[str, str]
) -> None:
    envelope = Envelope(id="1", name="shop.order_placed", version=2, key=None, payload='{"number": 1}')
    async with apart(tmp_path, files) as sides:
        posted = Posted(envelope=envelope, seconds=1)
        with pytest.raises(NotYet, match=r"shop.order_placed v2 is newer than what runs here, v1"):
            await sides.mail.kernel.get(MessageBus).inbound.accept("mail", "write_letter", posted)


async def test_without_an_address_both_sides_degrade_with_a_remedy(tmp_path: Path, files: tuple[str, str]) -> None:
    async with apart(tmp_path, files, shop={"MAIL_URL": ""}) as sides:
        for said in await sides.degraded():
            assert "shop.order_placed is not delivered to mail.write_letter: set MAIL_URL" in said


async def test_a_relay_without_the_publishers_module_does_not_count(tmp_path: Path, databases: tuple[str, str]) -> None:
    """As `kernel relay` with SHOP_URL: both processes leave the delivery to a relay that does not serve it."""
    async with apart(tmp_path, databases, shop={"MESSAGING_RELAY": "false"}) as sides:
        await sides.client.post(PLACE, json={"number": 1})

        async def both_degraded() -> bool:
            found = await sides.degraded()
            return all("no relay delivers them: run `kernel relay` with shop among its modules" in one for one in found)

        await until(both_degraded)


@pytest.mark.parametrize("prefix", ["", "other"])
async def test_a_broker_or_its_prefix_on_one_side_only_degrades_both(
    tmp_path: Path, files: tuple[str, str], prefix: str
) -> None:
    broker = {"MESSAGING_BROKER_URL": "redis://127.0.0.1:9"}
    there = broker | {"MESSAGING_BROKER_PREFIX": prefix} if prefix else {}
    async with apart(tmp_path, files, shop=broker, mail=there) as sides:
        await sides.mail.kernel.get(DeliveryWatch).look()
        for said in await sides.degraded():
            assert "set the same MESSAGING_BROKER_URL and MESSAGING_BROKER_PREFIX in both processes" in said


async def test_messages_for_a_renamed_handler_are_reported_and_can_be_moved(
    tmp_path: Path, files: tuple[str, str]
) -> None:
    async with apart(tmp_path, files) as sides:
        await sides.client.post(PLACE, json={"number": 1})
        [row] = await all_completed(sides)
        outbox = await put(sides.shop.kernel, None, subscriber="mail.old_name")
        payload = outbox.table.update().values(payload=row["payload"]).where(outbox.table.c.payload == "{}")
        await outbox.database.run(payload.returning(outbox.table.c.id))
        said, _ = await sides.degraded()
        assert "1 message(s) of shop wait for mail.old_name: mail has no handler old_name" in said
        assert "kernel messages move mail.old_name <new name>" in said
        assert await move(outbox, "mail.old_name", "mail.write_letter") == 1
        await all_completed(sides, 2)
        assert await letters(sides) == [1, 1]
        assert await sides.degraded() == ("", "")


ALONE = {path: text for path, text in FILES.items() if path.startswith("shop/")}
DEV = {"ENVIRONMENT": "dev", "AUTH_ENABLED": "false", "INTERNAL_SECRET": SECRET}


@pytest.fixture
def stripped(tmp_path: Path) -> Path:
    """Return the code base of the shop without that of the mail."""
    write_shop(tmp_path)
    for file in (tmp_path / "modules" / "mail").iterdir():
        file.unlink()
    (tmp_path / "modules" / "mail").rmdir()
    return tmp_path


async def test_a_message_without_a_known_subscriber_stops_the_start(stripped: Path) -> None:
    variables = DEV | {"DATABASE_URL": f"sqlite:///{stripped / 'data'}"}
    with imported_alone():
        app = create_app(*project_for(stripped, variables))
        with pytest.raises(SettingsError, match=r"shop.order_placed: has no subscriber .* MESSAGING_SUBSCRIBERS="):
            async with app.kernel.running():
                pass


@pytest.mark.parametrize(
    "said",
    [
        {"MESSAGING_WITHOUT_SUBSCRIBERS": "shop.order_placed"},
        {"MESSAGING_SUBSCRIBERS": "mail", "MAIL_URL": "http://127.0.0.1:9"},
        {"MESSAGING_BROKER_URL": "redis://127.0.0.1:9"},
    ],
)
async def test_a_message_with_configured_subscribers_does_not_stop_the_start(
    stripped: Path, said: dict[str, str]
) -> None:
    with imported_alone():
        app = create_app(*project_for(stripped, {"ENVIRONMENT": "local", "INTERNAL_SECRET": SECRET} | said))
        app.kernel._refuse()
        assert app.kernel.get(MessageBus).lost(["shop.order_placed"]) == []


def test_a_subscriber_without_an_address_stops_the_start(stripped: Path) -> None:
    expected = r"MESSAGING_SUBSCRIBERS: names mail: say where it runs \(MAIL_URL=http"
    with imported_alone(), pytest.raises(SettingsError, match=expected):
        project_for(stripped, {"MESSAGING_SUBSCRIBERS": "mail"})


async def test_a_module_outside_the_code_base_gets_its_messages(tmp_path: Path, files: tuple[str, str]) -> None:
    async with apart(tmp_path, files) as sides:
        bus = sides.shop.kernel.get(MessageBus)
        outbox = await put(sides.shop.kernel, None, subscriber="mail")
        payload = outbox.table.update().values(payload='{"number": 5}')
        await outbox.database.run(payload.returning(outbox.table.c.id))
        other = Envelope(id="2" * 32, name="shop.order_paid", version=1, key=None, payload="{}")
        async with outbox.database.transaction() as session:
            await outbox.add(session, other, ["mail"])
        assert "mail" in bus.targets_of(outbox)
        await all_completed(sides, 2)
        assert await letters(sides) == [5], "it has no handler of the other message, which is allowed"


@pytest.mark.parametrize("enabled", ["", "shop"])
async def test_addresses_that_leave_a_process_nothing_to_do_stop_the_start(tmp_path: Path, enabled: str) -> None:
    """As if all processes share the variables of a ConfigMap, including the addresses."""
    write_shop(tmp_path, {"idle/router.py": "from fastapi import APIRouter\nrouter = APIRouter()\n"})
    both = {"SHOP_URL": "http://shop:8000", "MAIL_URL": "http://mail:8000"}
    with imported_alone():
        variables = {**both, **({"ENABLED_MODULES": enabled} if enabled else {})}
        app = create_app(*project_for(tmp_path, variables))
        if enabled:
            app.kernel._refuse()
            return
        with pytest.raises(SettingsError, match=r"ENABLED_MODULES: is missing\. By MAIL_URL, SHOP_URL .* \(idle\)"):
            async with app.kernel.running():
                await asyncio.sleep(0)
