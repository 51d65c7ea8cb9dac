"""The dependencies that a handler may and may not have, and how it reads messages that older code stored."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ConfigDict

from kernel.ext.messaging import Message, upcast
from kernel.ext.messaging.declared import subscribers_elsewhere
from kernel.ext.messaging.handlers import HandlerError
from kernel.ext.messaging.message import UnknownVersion
from kernel.modules.discovery import DiscoveryError, discover
from tests.core.project import imported_alone
from tests.core.waiting import until
from tests.messaging.shop import FILES, rows, running_shop, write_shop
from tests.messaging.test_telling import URL

HEAD = """
from typing import Annotated
from fastapi import Depends, Header, Request
from kernel.ext.messaging import subscribe
from modules.shop.contract import OrderPlaced

async def given():
    yield "something"

async def header_of(x_name: Annotated[str, Header()]) -> str:
    return x_name

async def path_of(request: Request) -> str:
    return request.url.path

@subscribe(OrderPlaced)
"""


class Moved(Message, version=3):
    thing_id: int
    place: str


@upcast(Moved, from_version=1)
def _with_place(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "place": "unknown"}


@upcast(Moved, from_version=2)
def _place_in_capitals(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "place": old["place"].upper()}


class Renamed(Message, version=2):
    name: str


def test_messages_of_older_versions_are_upcast_step_by_step() -> None:
    assert Moved.from_stored(1, '{"thing_id": 1}') == Moved(thing_id=1, place="UNKNOWN")
    assert Moved.from_stored(3, '{"thing_id": 1, "place": "here"}') == Moved(thing_id=1, place="here")


class Timed(Message, version=2):
    model_config = ConfigDict(strict=True)

    at: datetime
    count: int


@upcast(Timed, from_version=1)
def _with_count(old: dict[str, Any]) -> dict[str, Any]:
    return {"at": datetime.fromisoformat(old["at"]) if old["parses"] else old["at"], "count": 1}


@pytest.mark.parametrize("parses", ["true", "false"])
def test_a_strict_message_reads_the_json_of_an_upcast(parses: str) -> None:
    stored = f'{{"at": "2030-01-01T20:00:00Z", "parses": {parses}}}'
    assert Timed.from_stored(1, stored) == Timed(at=datetime(2030, 1, 1, 20, tzinfo=UTC), count=1)


@pytest.mark.parametrize("version", [0, -1, "2", True, 1.5])
def test_a_version_must_be_a_positive_integer(version: Any) -> None:
    with pytest.raises(TypeError, match="must be a whole number from 1"):

        class Lost(Message, version=version):
            pass


def test_an_unreadable_version_is_named_in_the_error() -> None:
    with pytest.raises(UnknownVersion, match=r"write `@upcast\(Renamed, from_version=1\)` beside the message"):
        Renamed.from_stored(1, "{}")
    with pytest.raises(UnknownVersion, match="v3 is newer than what runs here, 2"):
        Renamed.from_stored(3, "{}")


def test_an_upcast_from_an_unknown_version_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to read from 2"):
        upcast(Renamed, from_version=2)


def test_a_key_that_is_not_a_field_is_refused() -> None:
    with pytest.raises(TypeError, match="has no field nobody"):

        class Lost(Message, key="nobody"):
            pass


@pytest.mark.parametrize(
    ("handler", "complaint"),
    [
        ("def write_letter(message: OrderPlaced) -> None: ...", "must be `async def`"),
        ("async def write_letter() -> None: ...", "must take the OrderPlaced to which it subscribes"),
        ("async def write_letter(message: 'Unknown') -> None: ...", "'Unknown' is not defined"),
        ("async def write_letter(message: int) -> None: ...", "must take the OrderPlaced to which it subscribes"),
        (
            "async def write_letter(message: OrderPlaced, other: int) -> None: ...",
            "write_letter: other is read from a request",
        ),
        (
            "async def write_letter(message: OrderPlaced, other: Annotated[str, Header()]) -> None: ...",
            "write_letter: other is read from a request",
        ),
        (
            "async def write_letter(message: OrderPlaced, other: Annotated[str, Depends(header_of)]) -> None: ...",
            "write_letter: other: x_name is read from a request",
        ),
        (
            "async def write_letter(message: OrderPlaced, other: Annotated[str, Depends(path_of)]) -> None: ...",
            "write_letter: other: request is read from a request",
        ),
        (
            "async def write_letter(message: OrderPlaced, other: Annotated[str, Depends(given)]) -> None: ...",
            "write_letter: other has a dependency with `yield`",
        ),
    ],
)
def test_a_handler_that_could_never_be_called_stops_the_start(tmp_path: Path, handler: str, complaint: str) -> None:
    write_shop(tmp_path, {"mail/handlers.py": HEAD + handler})
    with imported_alone(), pytest.raises(DiscoveryError, match=complaint):
        discover(tmp_path)


PLAIN = "async def write_letter(message: OrderPlaced) -> None: ..."


@pytest.mark.parametrize(
    "code",
    [
        (
            "from kernel.ext.messaging import subscribe as on\n"
            f"from modules.shop.contract import OrderPlaced\n@on(OrderPlaced)\n{PLAIN}"
        ),
        (
            "import kernel.ext.messaging as m\n"
            f"from modules.shop.contract import OrderPlaced\n@m.subscribe(OrderPlaced)\n{PLAIN}"
        ),
        (
            "from kernel.ext.messaging import subscribe\n"
            "from modules.shop import contract as c\n@subscribe(c.OrderPlaced)\n"
            "async def write_letter(message: c.OrderPlaced) -> None: ..."
        ),
        f"from kernel.ext.messaging import subscribe\nfrom .local import OrderPlaced\n@subscribe(OrderPlaced)\n{PLAIN}",
        (
            "from kernel.ext.messaging import subscribe\n"
            f"from modules.mail.local import OrderPlaced\n@subscribe(OrderPlaced)\n{PLAIN}"
        ),
        (
            f"from kernel.ext.messaging import subscribe\nfrom modules.shop.contract import OrderPlaced\n{PLAIN}\n"
            "other = subscribe(OrderPlaced)(write_letter)"
        ),
        (
            "from kernel.ext.messaging import subscribe\nfrom modules.shop.contract import OrderPlaced\nif True:\n"
            f"    @subscribe(OrderPlaced)\n    {PLAIN}"
        ),
        (
            "from kernel.ext.messaging import subscribe\nfrom modules.shop.contract import OrderPlaced\n"
            f"def bare(f): return lambda m: f(m)\n@bare\n@subscribe(OrderPlaced)\n{PLAIN}"
        ),
    ],
)
def test_a_handler_that_other_processes_cannot_find_stops_the_start(tmp_path: Path, code: str) -> None:
    write_shop(tmp_path, {"mail/handlers.py": code, "mail/local.py": "from modules.shop.contract import OrderPlaced"})
    with imported_alone(), pytest.raises(DiscoveryError, match="is not written plainly"):
        discover(tmp_path)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"mail/handlers.py": HEAD.replace("@sub", "@subscribe(OrderPlaced)\n@sub") + PLAIN}, "subscribes twice"),
        ({"mail/service.py": HEAD + PLAIN, "mail/handlers.py": "import modules.mail.service"}, "is not in handlers.py"),
    ],
)
def test_a_handler_in_the_wrong_place_stops_the_start(tmp_path: Path, files: dict[str, str], complaint: str) -> None:
    write_shop(tmp_path, files)
    with imported_alone(), pytest.raises(DiscoveryError, match=complaint):
        discover(tmp_path)


async def test_two_messages_of_one_name_stop_the_start(tmp_path: Path, empty_url: str) -> None:
    same = "\nclass Order_Placed(Message):\n    number: int\n"
    both = FILES["mail/handlers.py"].replace("import OrderPlaced", "import Order_Placed, OrderPlaced") + (
        "\n@subscribe(Order_Placed)\nasync def other(message: Order_Placed) -> None: ...\n"
    )
    files = {"shop/contract.py": FILES["shop/contract.py"] + same, "mail/handlers.py": both}
    with pytest.raises(HandlerError, match="have one name on the wire, shop"):
        async with running_shop(tmp_path, empty_url, files):
            pass


def test_a_handler_without_an_inbox_stops_the_start(tmp_path: Path) -> None:
    without = FILES["mail/models.py"].replace("class Inbox(InboxTable, Base):", "class Inbox(InboxTable):")
    write_shop(tmp_path, {"mail/models.py": without})
    with imported_alone(), pytest.raises(DiscoveryError, match="has no inbox to recognise second deliveries"):
        discover(tmp_path)


def test_subscriptions_of_modules_elsewhere_are_read_and_not_imported(tmp_path: Path) -> None:
    write_shop(tmp_path, {"mail/settings.py": "raise RuntimeError('loaded')"})
    assert subscribers_elsewhere(tmp_path, {"shop"}) == {"shop.order_placed": ["mail.write_letter"]}
    assert subscribers_elsewhere(tmp_path, {"shop", "mail"}) == {}


def test_a_subscription_elsewhere_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    code = (
        "from kernel.ext.messaging import subscribe\n"
        "from modules.shop import contract as c\n@subscribe(c.OrderPlaced)\n"
    )
    write_shop(tmp_path, {"mail/handlers.py": f"{code}async def write_letter(message: c.OrderPlaced) -> None: ..."})
    with pytest.raises(DiscoveryError, match="write_letter is not written plainly"):
        subscribers_elsewhere(tmp_path, {"shop"})


async def test_messages_for_modules_elsewhere_wait(tmp_path: Path, empty_url: str) -> None:
    async with running_shop(tmp_path, empty_url, ENABLED_MODULES="shop") as (app, client):
        await client.post(URL, json={"number": 1})
        await client.post(URL, json={"number": 2})
        assert {row["state"] for row in await rows(app, "shop", "outbox")} == {"pending"}
    async with running_shop(tmp_path, empty_url) as (app, _client):
        await until(lambda: rows(app, "mail", "letters"))


ASKING = {
    "shop/contract.py": FILES["shop/contract.py"]
    + """
from kernel import Contract, safe

class Prices(Contract):
    @safe
    async def of(self, number: int) -> int: ...
""",
    "shop/service.py": """
from modules.shop.contract import Prices

class PriceList(Prices):
    def __init__(self, session):
        pass

    async def of(self, number: int) -> int:
        return number * 10
""",
    "shop/module.py": """
from kernel import Module
from modules.shop.contract import Prices
from modules.shop.service import PriceList

module = Module(owner="team", provides={Prices: PriceList})
""",
    "mail/handlers.py": """
from typing import Annotated
from kernel import use, with_session
from kernel.ext.messaging import subscribe
from kernel.database import BaseRepository
from modules.mail.models import Letter
from modules.shop.contract import OrderPlaced, Prices

class Letters(BaseRepository[Letter, int]):
    def __init__(self, session):
        super().__init__(Letter, session)

@subscribe(OrderPlaced)
async def write_letter(
    message: OrderPlaced,
    letters: Annotated[Letters, with_session(Letters)],
    prices: Annotated[Prices, use(Prices)],
) -> None:
    await letters.create(number=await prices.of(message.number), customer=None)
""",
}


async def test_a_handler_may_call_another_module_before_it_writes(tmp_path: Path, empty_url: str) -> None:
    async with running_shop(tmp_path, empty_url, ASKING) as (app, client):
        await client.post(URL, json={"number": 4})
        [letter] = await until(lambda: rows(app, "mail", "letters"))
        assert letter["number"] == 40


SEEING = {
    "mail/handlers.py": """
from typing import Annotated
from fastapi import Depends
from kernel import TheKernel, with_session
from kernel.database import BaseRepository
from kernel.ext.messaging import subscribe
from kernel.web.context import CurrentContext
from modules.mail.models import Letter
from modules.shop.contract import OrderPlaced

CALLS = []

class Letters(BaseRepository[Letter, int]):
    def __init__(self, session):
        super().__init__(Letter, session)

async def message_id(context: CurrentContext) -> str:
    CALLS.append(context)
    return context.message_id

Id = Annotated[str, Depends(message_id)]

async def same(id: Id) -> str:
    return id

@subscribe(OrderPlaced)
async def write_letter(
    message: OrderPlaced,
    letters: Annotated[Letters, with_session(Letters)],
    first: Id,
    second: Annotated[str, Depends(same)],
    kernel: TheKernel,
) -> None:
    assert len(CALLS) == 1, "a dependency is called once for each message"
    assert CALLS[0].module.name == "mail" and kernel is CALLS[0].kernel
    await letters.create(number=message.number, customer=first if first == second else None)
"""
}


async def test_dependencies_of_a_handler_get_the_context_of_its_message(tmp_path: Path, empty_url: str) -> None:
    async with running_shop(tmp_path, empty_url, SEEING) as (app, client):
        await client.post(URL, json={"number": 4})
        [letter] = await until(lambda: rows(app, "mail", "letters"))
        [row] = await rows(app, "shop", "outbox")
        assert letter["customer"] == row["message_id"]
