"""What a process says of the modules that run elsewhere, before the first call goes wrong."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from kernel.ext.messaging import Message
from kernel.ext.remote.client import ContractsDiffer
from kernel.ext.remote.extension import Remote
from kernel.ext.remote.wire import WireMessage
from kernel.health import Degraded, run_checks
from kernel.testing.booting import talking_to
from tests.core.https_server import Call, Drop, Hang, Reply
from tests.core.project import FROM_MODELS
from tests.remote.two_sides import CONTRACT, Between, Forward, Sides, plainly, two_sides


def telling(change: Callable[[dict[str, Any]], object]) -> Between:
    """The other side means another contract: what it tells of `Prices` is changed on the way."""

    async def between(call: Call, forward: Forward) -> Reply | Drop:
        answer = await forward(call)
        if call.path != "/internal/contracts/prices":
            return answer
        assert isinstance(answer, Reply)
        told = json.loads(answer.body)
        told["Prices"]["fingerprint"] = "another"
        change(told["Prices"]["description"])
        return Reply(200, {}, json.dumps(told).encode())

    return between


async def findings(sides: Sides) -> dict[str, tuple[bool, bool, str]]:
    """What /health/ready would see: by component whether it failed, whether it is only degraded, and why."""
    found = await run_checks(sides.caller.kernel.health_checks(), 1)
    return {one.component: (one.problem is not None, one.is_degraded, one.problem or "") for one in found}


async def test_with_the_same_contract_all_is_well(tmp_path: Path) -> None:
    async with two_sides(tmp_path) as sides:
        assert (await findings(sides))["prices.contract"] == (False, False, "")
        assert "prices.contract" not in sides.callee.kernel.health_checks()


async def test_a_breaking_difference_fails_the_check_and_names_the_member(tmp_path: Path) -> None:
    async with two_sides(tmp_path, telling(lambda told: told["methods"].pop("of"))) as sides:
        failed, degraded, problem = (await findings(sides))["prices.contract"]
        assert (failed, degraded) == (True, False)
        assert problem == "ContractsDiffer: Prices.of: is not provided"


async def test_a_breaking_difference_found_after_the_start_degrades_a_process_that_serves(tmp_path: Path) -> None:
    is_changed = False

    async def between(call: Call, forward: Forward) -> Reply | Drop:
        return await (changed if is_changed else plainly)(call, forward)

    changed = telling(lambda told: told["methods"].pop("of"))
    async with two_sides(tmp_path, between) as sides:
        peer = sides.caller.kernel.get(Remote).peers[0]
        is_changed = True
        await peer.compare()
        failed, degraded, problem = (await findings(sides))["prices.contract"]
        assert (failed, degraded) == (True, True)
        assert problem.startswith("Prices.of: is not provided (found after the start")
        is_changed = False
        await peer.compare()
        assert (await findings(sides))["prices.contract"] == (False, False, "")


async def test_a_process_that_started_without_an_answer_serves_and_is_only_degraded_later(tmp_path: Path) -> None:
    is_down = True
    changed = telling(lambda told: told["methods"].pop("of"))

    async def between(call: Call, forward: Forward) -> Reply | Drop:
        return Drop() if is_down else await changed(call, forward)

    async with two_sides(tmp_path, between) as sides:
        is_down = False
        await sides.caller.kernel.get(Remote).peers[0].compare()
        with pytest.raises(Degraded, match=r"Prices\.of"):
            await sides.caller.kernel.get(Remote).peers[0].check()


async def test_a_new_process_stays_unready_while_the_other_side_does_not_answer(tmp_path: Path) -> None:
    is_down = False
    changed = telling(lambda told: told["methods"].pop("of"))

    async def between(call: Call, forward: Forward) -> Reply | Drop:
        return Drop() if is_down else await changed(call, forward)

    async with two_sides(tmp_path, between) as sides:
        peer = sides.caller.kernel.get(Remote).peers[0]
        for is_down in (True, False):  # noqa: B007  # read by `between`
            await peer.compare()
            with pytest.raises(ContractsDiffer, match=r"Prices\.of"):
                await peer.check()


MESSAGE = """
from kernel.ext.messaging import Message

class PriceChanged(Message):
    thing: str
    cents: int
"""
SUBSCRIBER = {
    "prices/contract.py": CONTRACT + MESSAGE,
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


@pytest.mark.parametrize(
    ("published", "said"),
    [
        (Same, None),
        (Narrower, "PriceChanged: thing is sent as null and read as string"),
        (Newer, "PriceChanged: is published as version 2 and read up to version 1"),
        (None, "PriceChanged: is not provided"),
    ],
)
async def test_a_subscriber_must_be_able_to_read_what_the_other_process_publishes(
    tmp_path: Path, published: type[Message] | None, said: str | None
) -> None:
    async def between(call: Call, forward: Forward) -> Reply | Drop:
        answer = await forward(call)
        if call.path != "/internal/contracts/prices":
            return answer
        assert isinstance(answer, Reply)
        told = json.loads(answer.body)
        assert told["PriceChanged"]["description"]["version"] == 1
        told.pop("PriceChanged")
        if published is not None:
            told["PriceChanged"] = WireMessage(published).described
        return Reply(200, {}, json.dumps(told).encode())

    folder = tmp_path / "migrations" / "post"
    folder.mkdir(parents=True)
    (folder / "0001_first.py").write_text(FROM_MODELS.format(module="post"))
    caller = {"ENVIRONMENT": "local", "ENABLED_MODULES": "post"}
    async with two_sides(tmp_path, between, caller=caller, files=SUBSCRIBER) as sides:
        failed, degraded, problem = (await findings(sides))["prices.contract"]
        assert (failed, degraded) == (said is not None, False)
        assert problem == (f"ContractsDiffer: {said}" if said else "")


async def test_a_message_that_cannot_be_described_degrades_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "migrations" / "post"
    folder.mkdir(parents=True)
    (folder / "0001_first.py").write_text(FROM_MODELS.format(module="post"))
    callback = MESSAGE.replace("cents: int", "cents: Callable[[], int]")
    files = SUBSCRIBER | {"prices/contract.py": f"{CONTRACT}from collections.abc import Callable\n{callback}"}
    caller = {"ENVIRONMENT": "local", "ENABLED_MODULES": "post"}
    async with asyncio.timeout(60), two_sides(tmp_path, caller=caller, files=files) as sides:
        failed, degraded, problem = (await findings(sides))["prices.contract"]
        assert (failed, degraded) == (True, True)
        assert "Cannot generate a JsonSchema" in problem


async def test_a_compatible_difference_is_logged_once_and_no_problem(tmp_path: Path) -> None:
    more = {"safe": True, "arguments": {}, "result": {}}
    with structlog.testing.capture_logs() as logs:
        async with two_sides(tmp_path, telling(lambda told: told["methods"].update(dearest=more))) as sides:
            for _ in range(3):
                await sides.caller.kernel.get(Remote).peers[0].compare()
            assert (await findings(sides))["prices.contract"] == (False, False, "")
    told = [log["found"] for log in logs if log["event"] == "module elsewhere"]
    assert told == ["Prices.dearest: is provided, but not known to the caller"]


async def test_the_callee_logs_what_its_caller_means(tmp_path: Path) -> None:
    async with two_sides(tmp_path) as sides:
        [wire] = sides.caller.kernel.get(Remote).peers[0].wires
        wire.described["fingerprint"] = "another"
        wire.description["methods"]["gone"] = wire.description["methods"]["of"]
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                await sides.caller.kernel.get(Remote).peers[0].compare()
        [log] = [log for log in logs if log["event"] == "a caller means another contract"]
        assert (log["difference"], log["is_breaking"]) == ("Prices.gone: is not provided", True)
        with pytest.raises(Degraded, match=r"Prices\.gone"):
            await sides.caller.kernel.get(Remote).peers[0].check()


async def drop(call: Call, forward: Forward) -> Reply | Drop:
    return Drop()


async def nonsense(call: Call, forward: Forward) -> Reply | Drop:
    return Reply(200, {}, b"<html>")


@pytest.mark.parametrize(
    ("between", "caller", "said"),
    [
        (drop, {}, "prices does not answer at"),
        (nonsense, {}, "validation error"),
        (None, {"PRICES_URL": "http://127.0.0.1:9"}, "prices does not answer at http://127.0.0.1:9/"),
        (None, {"INTERNAL_SECRET": "x" * 32}, "prices was answered with 401"),
    ],
)
async def test_whoever_cannot_be_asked_degrades_the_caller(
    tmp_path: Path, between: Between | None, caller: dict[str, str], said: str
) -> None:
    async with two_sides(tmp_path, **({"between": between} if between else {}), caller=caller) as sides:
        failed, degraded, problem = (await findings(sides))["prices.contract"]
        assert (failed, degraded) == (True, True)
        assert said in problem
        assert sides.caller.kernel.is_started


async def test_a_process_that_does_not_provide_the_module_is_a_breaking_difference(tmp_path: Path) -> None:
    async def between(call: Call, forward: Forward) -> Reply | Drop:
        assert call.path == "/internal/contracts/prices"
        return Reply(200, {}, b"{}")

    async with two_sides(tmp_path, between) as sides:
        with pytest.raises(ContractsDiffer, match="Prices: is not provided"):
            await sides.caller.kernel.get(Remote).peers[0].check()


async def test_it_recovers_by_itself(tmp_path: Path) -> None:
    is_down = True

    async def between(call: Call, forward: Forward) -> Reply | Drop:
        return Drop() if is_down else await forward(call)

    async with two_sides(tmp_path, between, caller={"INTERNAL_COMPARE_SECONDS": "0.05"}) as sides:
        peer = sides.caller.kernel.get(Remote).peers[0]
        with pytest.raises(Degraded):
            await peer.check()
        is_down = False
        async with asyncio.timeout(10):
            while (await findings(sides))["prices.contract"][0]:  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.02)


async def test_a_start_does_not_wait_for_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it ready before it has looked, once."""
    monkeypatch.setattr("kernel.ext.remote.client._COMPARE_SECONDS", 0.3)
    looked = asyncio.Event()

    async def between(call: Call, forward: Forward) -> Any:
        looked.set()
        return Hang()

    async with two_sides(tmp_path, between, waits=False) as sides:
        assert sides.caller.kernel.is_started
        check = asyncio.create_task(sides.caller.kernel.get(Remote).peers[0].check())
        await looked.wait()
        assert not check.done()
        with pytest.raises(Degraded):
            await check


@pytest.fixture
async def described(tmp_path: Path) -> AsyncIterator[dict[str, Any]]:
    """The OpenAPI document of the callee's contracts."""
    local = {"ENVIRONMENT": "local", "INTERNAL_SECRET": ""}
    async with two_sides(tmp_path, callee=local) as sides, talking_to(sides.callee) as callee:
        public = (await callee.get("/openapi.json")).json()
        assert not [path for path in public["paths"] if path.startswith("/internal")]
        assert "Price" not in public.get("components", {}).get("schemas", {})
        yield (await callee.get("/internal/openapi.json")).json()


def test_the_contracts_have_an_openapi_document_of_their_own(described: dict[str, Any]) -> None:
    names = {"of", "largest", "echo", "change", "book", "fail", "sleep"}
    assert described["paths"].keys() == {f"/internal/contracts/prices/{name}" for name in names}
    of = described["paths"]["/internal/contracts/prices/of"]["post"]
    schemas = described["components"]["schemas"]

    def resolved(content: dict[str, Any]) -> dict[str, Any]:
        schema = content["application/json"]["schema"]
        found: dict[str, Any] = schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        return found

    assert resolved(of["requestBody"]["content"])["required"] == ["thing"]
    assert resolved(of["responses"]["200"]["content"])["properties"].keys() == {"cents", "words"}
    assert of["responses"]["401"]["content"].keys() == {"application/problem+json"}
    assert described["security"] == [{"token": []}]
