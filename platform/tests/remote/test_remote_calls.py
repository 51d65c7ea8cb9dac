"""Calls of a contract whose module runs in another process: values, errors, retries and deadlines."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from kernel.ext.remote.deadline import until
from kernel.modules.contracts import CallInTransaction, ContractBroken, ContractUnavailable
from tests.core.https_server import Call, Drop, Reply
from tests.remote.two_sides import Forward, Sides, two_sides

pytestmark = pytest.mark.integration


@pytest.fixture
async def sides(tmp_path: Path) -> AsyncIterator[Sides]:
    async with two_sides(tmp_path) as sides:
        yield sides


def everything(contract: Any, **changes: Any) -> Any:
    values = {
        "price": contract.Price(cents=3, words=("tea", "Tee ☕")),
        "many": {"a": [contract.Price(cents=1)], "": []},
        "amount": Decimal("0.10"),
        "when": datetime(2030, 5, 1, 12, 30, 0, 1, tzinfo=UTC),
        "day": date(2030, 5, 1),
        "at": time(23, 59, 59),
        "lasting": timedelta(days=1, microseconds=7),
        "who": uuid.uuid4(),
        "colour": contract.Colour.BLUE,
        "place": contract.Place(1, "b"),
        "choice": 1,
        "tags": frozenset({1, 2}),
        "maybe": 0.1,
    }
    return contract.Everything(**values | changes)


async def test_every_kind_of_value_arrives_unchanged(sides: Sides) -> None:
    inner = everything(sides.contract, choice="a", maybe=None)
    outer = everything(sides.contract, inside=inner)
    assert await sides.prices.echo(outer, also=[inner, 7]) == [outer, inner, 7]
    assert await sides.prices.largest() is None
    assert await sides.prices.change("tea", price=sides.contract.Price(cents=5)) is None
    assert sides.done == [("change", "tea", 5)]


async def test_the_owners_default_applies_to_an_omitted_argument(sides: Sides) -> None:
    assert (await sides.prices.of("tea")).cents == 6, "the default is 2 in the implementation and 1 in the contract"
    assert (await sides.prices.of("tea", amount=1)).cents == 3


async def test_arguments_that_the_contract_refuses_are_not_sent(sides: Sides) -> None:
    for args in ((), (3,), ("tea", 1, 2)):
        with pytest.raises(TypeError):
            await sides.prices.of(*args)
    assert sides.wire.calls == []


async def test_a_declared_error_arrives_as_the_same_class_with_its_fields(sides: Sides) -> None:
    with pytest.raises(sides.contract.TooMany) as caught:
        await sides.prices.fail("too many")
    assert (caught.value.limit, caught.value.of) == (3, sides.contract.Price(cents=1))
    assert str(caught.value) == "There are not that many (limit=3, of=Price(cents=1, words=()))"
    with pytest.raises(sides.contract.SoldOut, match="Nothing is left"):
        await sides.prices.fail("sold out")
    assert sides.done == [("fail", "too many"), ("fail", "sold out")], (
        "an error is an answer, and the call is not repeated"
    )


@pytest.mark.parametrize(
    ("status", "is_outage"),
    [(401, False), (404, False), (422, False), (429, True), (500, False), (502, True), (503, True), (504, True)],
)
async def test_only_a_temporary_status_is_an_outage(tmp_path: Path, status: int, is_outage: bool) -> None:
    async def answered(_call: Call, _forward: Forward) -> Reply | Drop:
        return Reply(status, {"content-type": "application/json"}, b"{}")

    async with two_sides(tmp_path, answered) as sides:
        with pytest.raises(ContractUnavailable, match=f"Prices.change was answered with {status}") as caught:
            await sides.prices.change("tea", sides.contract.Price(cents=1))
        assert isinstance(caught.value, ContractBroken) is not is_outage


@pytest.mark.parametrize(("how", "said"), [("other", "500"), ("lie", "500")])
async def test_other_failures_raise_contract_unavailable_with_call_and_address(
    sides: Sides, how: str, said: str
) -> None:
    with pytest.raises(ContractUnavailable, match=rf"Prices\.fail .*{said} .*{sides.wire.url}/internal") as caught:
        await sides.prices.fail(how)
    assert "secret of prices" not in str(caught.value)
    answer = await sides.shop.get("/api/v1/shop/tea")
    assert answer.status_code == 200


@pytest.mark.parametrize("body", [b"<html>", b'{"cents": "many"}', b"null", b""])
async def test_an_answer_of_another_type_is_unavailable(tmp_path: Path, body: bytes) -> None:
    async def lie(call: Call, forward: Forward) -> Reply | Drop:
        return Reply(200, {}, body) if call.path.endswith("/of") else await forward(call)

    async with two_sides(tmp_path, lie) as sides:
        with pytest.raises(ContractUnavailable, match=r"Prices\.of was answered with another type"):
            await sides.prices.of("tea")
        answer = await sides.shop.get("/api/v1/shop/tea")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_a_closed_port_raises_contract_unavailable_with_its_cause(tmp_path: Path) -> None:
    async with two_sides(tmp_path, caller={"PRICES_URL": "http://127.0.0.1:9"}) as sides:
        with pytest.raises(ContractUnavailable, match=r"prices/of does not answer at http://127\.0\.0\.1:9/") as caught:
            await sides.prices.of("tea")
        assert type(caught.value.__cause__).__name__ == "ConnectError"


def losing(method: str) -> Any:
    """Let the other process do the work, and lose the first answer."""

    async def lose(call: Call, forward: Forward) -> Reply | Drop:
        answer = await forward(call)
        return Drop() if call.path.endswith(f"/{method}") and call.attempt == 1 else answer

    return lose


async def test_a_safe_call_whose_answer_is_lost_is_repeated_with_a_new_signature(tmp_path: Path) -> None:
    async with two_sides(tmp_path, losing("of")) as sides:
        assert (await sides.prices.of("tea", 1)).cents == 3
        assert sides.done == [("of", "tea", 1)] * 2
        first, second = sides.wire.calls
        assert first.headers["authorization"] != second.headers["authorization"]
        assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


async def test_an_unsafe_call_whose_answer_is_lost_is_not_repeated(tmp_path: Path) -> None:
    async with two_sides(tmp_path, losing("change")) as sides:
        with pytest.raises(ContractUnavailable):
            await sides.prices.change("tea", sides.contract.Price(cents=5))
        assert (sides.done, len(sides.wire.calls)) == ([("change", "tea", 5)], 1)


async def test_an_unsafe_call_with_an_idempotency_key_is_repeated(tmp_path: Path) -> None:
    async with two_sides(tmp_path, losing("book")) as sides:
        assert await sides.prices.book("tea", "key ☕\n") == 2
        assert sides.done == [("book", "tea", "key ☕\n")] * 2
        assert {call.headers["idempotency-key"] for call in sides.wire.calls} == {"key%20%E2%98%95%0A"}


async def test_the_request_id_and_the_trace_are_sent(sides: Sides) -> None:
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
    await sides.shop.get("/api/v1/shop/tea", headers={"x-request-id": "mine", "traceparent": trace})
    assert sides.service.SEEN[-1].items() >= {"request_id": "mine", "traceparent": trace}.items()
    await sides.shop.get("/api/v1/shop/tea", headers={"traceparent": "00-forged\n"})
    assert "traceparent" not in sides.wire.calls[-1].headers


async def test_work_ends_at_the_deadline_of_the_caller(tmp_path: Path) -> None:
    ended: asyncio.Queue[int] = asyncio.Queue()

    async def note(call: Call, forward: Forward) -> Reply | Drop:
        answer = await forward(call)
        assert isinstance(answer, Reply)
        if call.path.endswith("/sleep"):
            ended.put_nowait(answer.status)
        return answer

    none = {"INTERNAL_CLOCK_LEEWAY_SECONDS": "0"}
    async with two_sides(tmp_path, note, callee=none, caller={"HTTP_CLIENT_TOTAL_TIMEOUT_SECONDS": "0.3"}) as sides:
        with pytest.raises(ContractUnavailable):
            await sides.prices.sleep(30)
        async with asyncio.timeout(5):
            assert await ended.get() == 504
        assert sides.done == [("began",)]


async def test_a_call_inherits_the_smaller_deadline(tmp_path: Path) -> None:
    async with two_sides(tmp_path, callee={"INTERNAL_CLOCK_LEEWAY_SECONDS": "0"}) as sides:
        assert 29 < await sides.prices.sleep(0) <= 30, "HTTP_CLIENT_TOTAL_TIMEOUT_SECONDS"
        async with until(datetime.now(UTC).timestamp() + 5):
            assert 4 < await sides.prices.sleep(0) <= 5


async def test_a_call_whose_deadline_has_passed_is_not_made(sides: Sides) -> None:
    with pytest.raises(ContractUnavailable, match=r"prices/of was not called: the deadline .* has passed"):
        async with until(datetime.now(UTC).timestamp() - 1):
            await sides.prices.of("tea")
    assert (sides.done, sides.wire.calls) == ([], [])


async def test_a_call_after_a_write_is_refused_as_in_one_process(sides: Sides) -> None:
    async with sides.caller.kernel.contexts["shop"].database.transaction() as session:
        await session.execute(text("CREATE TABLE things (id int)"))
        with pytest.raises(CallInTransaction, match=r"Prices\.of is called at"):
            await sides.prices.of("tea")
    assert sides.wire.calls == []
