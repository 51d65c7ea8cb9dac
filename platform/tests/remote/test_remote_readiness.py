"""How a process reports differences and outages of modules in other processes, before the first call fails."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from kernel.ext.remote.client import ContractsDiffer
from kernel.ext.remote.extension import Remote
from kernel.health import Degraded, run_checks
from kernel.testing.booting import talking_to
from tests.core.https_server import Call, Drop, Hang, Reply
from tests.core.waiting import until
from tests.remote.two_sides import Between, Forward, Sides, describing_otherwise, plainly, two_sides

pytestmark = pytest.mark.integration


def telling(change: Callable[[dict[str, Any]], object]) -> Between:
    """Change the description of `Prices` on the way, as if the other process had another contract."""

    def change_all(descriptions: dict[str, Any]) -> None:
        descriptions["Prices"]["fingerprint"] = "another"
        change(descriptions["Prices"]["description"])

    return describing_otherwise(change_all)


async def findings(sides: Sides) -> dict[str, tuple[bool, bool, str]]:
    """Return the findings of /health/ready: by component, whether it failed or is degraded, and the reason."""
    found = await run_checks(sides.caller.kernel.health_checks(), 1)
    return {one.component: (one.problem is not None, one.is_degraded, one.problem or "") for one in found}


async def test_with_the_same_contract_the_check_succeeds(tmp_path: Path) -> None:
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
        module = sides.caller.kernel.get(Remote).channel.compared["prices"]
        is_changed = True
        await module.compare()
        failed, degraded, problem = (await findings(sides))["prices.contract"]
        assert (failed, degraded) == (True, True)
        assert problem.startswith("Prices.of: is not provided (found after the start")
        is_changed = False
        await module.compare()
        assert (await findings(sides))["prices.contract"] == (False, False, "")


async def test_a_process_that_started_without_an_answer_serves_and_is_only_degraded_later(tmp_path: Path) -> None:
    is_down = True
    changed = telling(lambda told: told["methods"].pop("of"))

    async def between(call: Call, forward: Forward) -> Reply | Drop:
        return Drop() if is_down else await changed(call, forward)

    async with two_sides(tmp_path, between) as sides:
        is_down = False
        await sides.caller.kernel.get(Remote).channel.compared["prices"].compare()
        with pytest.raises(Degraded, match=r"Prices\.of"):
            await sides.caller.kernel.get(Remote).channel.compared["prices"].check()


async def test_a_new_process_stays_unready_while_the_other_side_does_not_answer(tmp_path: Path) -> None:
    is_down = False
    changed = telling(lambda told: told["methods"].pop("of"))

    async def between(call: Call, forward: Forward) -> Reply | Drop:
        return Drop() if is_down else await changed(call, forward)

    async with two_sides(tmp_path, between) as sides:
        module = sides.caller.kernel.get(Remote).channel.compared["prices"]
        for is_down in (True, False):  # noqa: B007  # read by `between`
            await module.compare()
            with pytest.raises(ContractsDiffer, match=r"Prices\.of"):
                await module.check()


async def test_a_compatible_difference_is_only_logged_once(tmp_path: Path) -> None:
    more = {"safe": True, "arguments": {}, "result": {}}
    with structlog.testing.capture_logs() as logs:
        async with two_sides(tmp_path, telling(lambda told: told["methods"].update(dearest=more))) as sides:
            for _ in range(3):
                await sides.caller.kernel.get(Remote).channel.compared["prices"].compare()
            assert (await findings(sides))["prices.contract"] == (False, False, "")
    told = [log["found"] for log in logs if log["event"] == "contracts of another process"]
    assert told == ["Prices.dearest: is provided, but not known to the caller"]


async def test_the_provider_logs_the_differences_of_its_caller(tmp_path: Path) -> None:
    async with two_sides(tmp_path) as sides:
        expected = sides.caller.kernel.get(Remote).channel.compared["prices"].expected["Prices"]
        expected["fingerprint"] = "another"
        methods = cast("dict[str, Any]", expected["description"]["methods"])
        methods["gone"] = methods["of"]
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                await sides.caller.kernel.get(Remote).channel.compared["prices"].compare()
        [log] = [log for log in logs if log["event"] == "the contracts of a caller differ"]
        assert (log["difference"], log["is_breaking"]) == ("Prices.gone: is not provided", True)
        with pytest.raises(Degraded, match=r"Prices\.gone"):
            await sides.caller.kernel.get(Remote).channel.compared["prices"].check()


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
async def test_an_unreachable_module_degrades_its_caller(
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
            await sides.caller.kernel.get(Remote).channel.compared["prices"].check()


async def test_it_recovers_by_itself(tmp_path: Path) -> None:
    is_down = True

    async def between(call: Call, forward: Forward) -> Reply | Drop:
        return Drop() if is_down else await forward(call)

    async with two_sides(tmp_path, between, caller={"INTERNAL_COMPARE_SECONDS": "0.05"}) as sides:
        module = sides.caller.kernel.get(Remote).channel.compared["prices"]
        with pytest.raises(Degraded):
            await module.check()
        is_down = False

        async def is_well() -> bool:
            return not (await findings(sides))["prices.contract"][0]

        await until(is_well, 10)


async def test_a_start_does_not_wait_for_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is not ready before its first comparison."""
    monkeypatch.setattr("kernel.ext.remote.client._COMPARE_SECONDS", 0.3)
    looked = asyncio.Event()

    async def between(call: Call, forward: Forward) -> Any:
        looked.set()
        return Hang()

    async with two_sides(tmp_path, between, waits=False) as sides:
        assert sides.caller.kernel.is_started
        check = asyncio.create_task(sides.caller.kernel.get(Remote).channel.compared["prices"].check())
        await looked.wait()
        assert not check.done()
        with pytest.raises(Degraded):
            await check


@pytest.fixture
async def described(tmp_path: Path) -> AsyncIterator[dict[str, Any]]:
    """Return the OpenAPI document of the other process's contracts."""
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
