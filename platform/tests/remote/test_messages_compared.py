"""The comparison of messages with another process, which follows that of contracts."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kernel.ext.messaging import Message
from kernel.ext.remote.wire import description_of, with_fingerprint
from tests.core.project import FROM_MODELS
from tests.remote.test_remote_readiness import findings
from tests.remote.two_sides import FILES, describing_otherwise, two_sides

MESSAGE = """
from kernel.ext.messaging import Message

class PriceChanged(Message):
    thing: str
    cents: int
"""
SUBSCRIBER = {
    "prices/contract.py": FILES["prices/contract.py"] + MESSAGE,
    "post/models.py": """
from sqlalchemy.orm import DeclarativeBase
from kernel.database import new_metadata
from kernel.ext.messaging import InboxTable

class Base(DeclarativeBase):
    metadata = new_metadata()

class Inbox(InboxTable, Base):
    __tablename__ = "inbox"
""",
    "post/handlers.py": """
from kernel.ext.messaging import subscribe
from modules.prices.contract import PriceChanged

@subscribe(PriceChanged)
async def note(message: PriceChanged) -> None: ...
""",
    "post/module.py": "from kernel import Module\nmodule = Module(owner='team', depends_on={'prices'})\n",
}


class Same(Message):
    thing: str
    cents: int
    note: str = ""


class Narrower(Message):
    thing: str | None
    cents: int


class Newer(Message, version=2):
    thing: str


@pytest.mark.integration
@pytest.mark.parametrize(
    ("published", "said"),
    [
        (Same, None),
        (Narrower, "PriceChanged: thing is sent as null and read as string"),
        (Newer, "PriceChanged: is published as version 2 and read up to version 1"),
        (None, "PriceChanged: is not provided"),
    ],
)
async def test_a_subscriber_must_be_able_to_read_the_messages_of_the_other_process(
    tmp_path: Path, published: type[Message] | None, said: str | None
) -> None:
    def change(descriptions: dict[str, Any]) -> None:
        assert descriptions["PriceChanged"]["description"]["version"] == 1
        descriptions.pop("PriceChanged")
        if published is not None:
            descriptions["PriceChanged"] = with_fingerprint(description_of(published.as_shared_model()))

    folder = tmp_path / "migrations" / "post"
    folder.mkdir(parents=True)
    (folder / "0001_first.py").write_text(FROM_MODELS)
    caller = {"ENVIRONMENT": "local", "ENABLED_MODULES": "post"}
    async with two_sides(tmp_path, describing_otherwise(change), caller=caller, files=SUBSCRIBER) as sides:
        failed, degraded, problem = (await findings(sides))["prices.contract"]
        assert (failed, degraded) == (said is not None, False)
        assert problem == (f"ContractsDiffer: {said}" if said else "")


@pytest.mark.integration
async def test_a_message_that_cannot_be_described_degrades_with_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "migrations" / "post"
    folder.mkdir(parents=True)
    (folder / "0001_first.py").write_text(FROM_MODELS)
    callback = MESSAGE.replace("cents: int", "cents: Callable[[], int]")
    contract = FILES["prices/contract.py"]
    files = SUBSCRIBER | {"prices/contract.py": f"{contract}from collections.abc import Callable\n{callback}"}
    caller = {"ENVIRONMENT": "local", "ENABLED_MODULES": "post"}
    async with asyncio.timeout(60), two_sides(tmp_path, caller=caller, files=files) as sides:
        failed, degraded, problem = (await findings(sides))["prices.contract"]
        assert (failed, degraded) == (True, True)
        assert "Cannot generate a JsonSchema" in problem
