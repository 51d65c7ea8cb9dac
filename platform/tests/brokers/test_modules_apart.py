"""Two modules in two processes, each with a database of its own, connected by a broker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kernel.ext.messaging.bus import MessageBus
from kernel.ext.messaging.envelope import Envelope
from kernel.ext.messaging.handlers import HandlerError
from kernel.health import run_checks
from kernel.runtime import Kernel
from kernel.testing import settings_for
from tests.brokers.servers import Server
from tests.core.project import imported_alone
from tests.core.waiting import until
from tests.messaging.shop import FILES, place, rows, write_shop

pytestmark = pytest.mark.slow

NOWHERE = "http://127.0.0.1:9"


@asynccontextmanager
async def apart(root: Path, server: Server, prefix: str) -> AsyncIterator[tuple[Kernel, Kernel]]:
    """Provide the kernel of shop, and that of mail, which has only the contract and the address of shop."""
    common = {
        "MESSAGING_BROKER_URL": server.url,
        "MESSAGING_BROKER_PREFIX": prefix,
        "MESSAGING_POLL_SECONDS": "0.1",
        "MESSAGING_BACKOFF_SECONDS": "0.05",
        "MESSAGING_HANDLER_TIMEOUT_SECONDS": "3",
    }
    with imported_alone():
        write_shop(root)
        shop = {"ENABLED_MODULES": "shop", "DATABASE_URL": f"sqlite:///{root / 'here'}"}
        mail = {
            "ENABLED_MODULES": "mail",
            "SHOP_URL": NOWHERE,
            "DATABASE_URL": f"sqlite:///{root / 'there'}",
        }
        here, there = (Kernel(settings_for(root, common | own)) for own in (shop, mail))
        async with here.running(), there.running():
            yield here, there


async def test_a_published_message_arrives_at_the_other_module_once(
    tmp_path: Path, server: Server, prefix: str
) -> None:
    async with apart(tmp_path, server, prefix) as (here, there):
        for number in range(30):
            await place(here, number)

        async def all_there() -> bool:
            return len(await rows(there, "mail", "letters")) >= 30

        await until(all_there)
        letters = await rows(there, "mail", "letters")
        assert sorted(letter["number"] for letter in letters) == list(range(30))
        assert {row["subscriber"] for row in await rows(here, "shop", "outbox")} == {"broker"}
        kept = await rows(there, "mail", "outbox")
        assert {row["subscriber"] for row in kept} == {"mail.write_letter"}
        assert {row["message_id"] for row in kept} == {row["message_id"] for row in await rows(here, "shop", "outbox")}


async def test_messages_from_before_a_broker_was_configured_go_to_it(
    tmp_path: Path, server: Server, prefix: str
) -> None:
    async with apart(tmp_path, server, prefix) as (here, there):
        outbox = here.get(MessageBus).outboxes["shop"]
        waited = Envelope(id="1" * 32, name="shop.order_placed", version=1, key=None, payload='{"number": 7}')
        async with outbox.database.transaction() as session:
            await outbox.add(session, waited, ["mail.write_letter"])
        [letter] = await until(lambda: rows(there, "mail", "letters"))
        assert letter["number"] == 7
        assert {row["state"] for row in await rows(here, "shop", "outbox")} <= {"completed", "processing"}


async def test_a_message_that_is_delivered_twice_takes_effect_once(tmp_path: Path, server: Server, prefix: str) -> None:
    async with apart(tmp_path, server, prefix) as (here, there):
        await place(here, 1)
        await until(lambda: rows(there, "mail", "letters"))
        [sent] = await rows(here, "shop", "outbox")
        envelope = Envelope(id=sent["message_id"], name=sent["name"], version=1, key=None, payload=sent["payload"])
        assert here.get(MessageBus).broker is not None
        for turn in range(3):  # Under ids that the broker itself treats as new.
            await here.get(MessageBus).broker.send(envelope.to_json(), sent["name"], f"{envelope.id}{turn}")
        await here.get(MessageBus).broker.send(b"not ours", sent["name"], "garbage")
        await place(here, 2)

        async def second() -> bool:
            return 2 in {letter["number"] for letter in await rows(there, "mail", "letters")}

        await until(second)
        assert [letter["number"] for letter in await rows(there, "mail", "letters")] == [1, 2]


async def test_a_dead_broker_delays_messages_and_loses_none(tmp_path: Path, server: Server, prefix: str) -> None:
    async with apart(tmp_path, server, prefix) as (here, there):
        await place(here, 1)
        await until(lambda: rows(there, "mail", "letters"))
        server.kill()
        for number in range(2, 22):
            await place(here, number)

        async def degraded() -> bool:
            findings = await run_checks(here.health_checks(), 2)
            return [one.component for one in findings if one.problem] == ["broker"] and all(
                one.is_degraded for one in findings if one.problem
            )

        await until(degraded)
        assert "abandoned" not in {row["state"] for row in await rows(here, "shop", "outbox")}
        await asyncio.to_thread(server.start)

        async def all_there() -> bool:
            return len(await rows(there, "mail", "letters")) >= 21

        await until(all_there, seconds=60)
        assert sorted(letter["number"] for letter in await rows(there, "mail", "letters")) == list(range(1, 22))


def test_a_subscriber_behind_a_broker_needs_an_outbox(tmp_path: Path) -> None:
    without = FILES["mail/models.py"].replace("class Outbox(OutboxTable, Base):", "class Outbox(OutboxTable):")
    with imported_alone():
        write_shop(tmp_path, {"mail/models.py": without})
        settings = {
            "ENABLED_MODULES": "mail",
            "SHOP_URL": NOWHERE,
            "MESSAGING_BROKER_URL": "nats://127.0.0.1:9",
        }
        with pytest.raises(HandlerError, match="modules/mail has no outbox to store messages of the broker"):
            Kernel(settings_for(tmp_path, settings))
