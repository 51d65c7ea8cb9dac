"""Which differences between two descriptions of a contract or message are breaking, and which are not."""

from typing import Any

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, create_model

from kernel.ext.channel.channel import SharedModel
from kernel.ext.remote import compatibility as comparing
from kernel.ext.remote.compatibility import Difference, Effect, compare, message_differences, stored_differences
from kernel.ext.remote.wire import WireContract, description_of, with_fingerprint
from kernel.modules.contracts import Contract, safe
from tests.remote.shape_cases import CASES, Case, DefaultPrice, Price, PriceAndMore, Red, RedOrBlue, shown


def differences(contract: str, mine: Any, theirs: Any) -> list[Difference]:
    return list(comparing.differences(contract, mine, theirs))


def described(argument: Any, result: Any, **more: Any) -> Any:
    """Return the description of a contract with one method."""

    class Prices(Contract, version=more.pop("version", 1)):
        async def of(self, thing: argument) -> result:
            raise NotImplementedError

    if more.get("is_safe"):
        safe(Prices.of)
    return WireContract(Prices).description


def message(field: Any, version: int = 1) -> Any:
    """Return the description of a message with one field."""
    return description_of(SharedModel("Told", create_model("Told", thing=(field, ...)), version, version))


def judge(found: list[Difference], member: str, said: str | None) -> None:
    breaking = [one for one in found if one.is_breaking]
    if said is None:
        assert not breaking, breaking
    else:
        assert breaking
        assert all(one.member == member for one in breaking)
        assert any(said in one.reason for one in breaking), breaking


def about_thing(said: str | None) -> str | None:
    """Return the reason about the field or argument `thing` instead of the whole value."""
    if said is None:
        return None
    said = said.replace("it ", "thing ", 1).replace("it,", "thing,", 1).replace("[", "thing[", 1)
    return said if "thing" in said else f"{said}"


@pytest.mark.parametrize("case", CASES, ids=shown)
def test_pydantic_reads_and_refuses_as_in_the_table(case: Case) -> None:
    sender, reader = TypeAdapter(case.sent), TypeAdapter(case.read)
    sent = sender.dump_json(sender.validate_json(case.witness), by_alias=True)
    if case.said is None or case.is_cautious:
        reader.validate_json(sent)
    else:
        with pytest.raises(ValidationError):
            reader.validate_json(sent)


@pytest.mark.parametrize("case", CASES, ids=shown)
def test_a_result_must_be_readable_by_the_caller(case: Case) -> None:
    found = differences("Prices", described(int, case.read), described(int, case.sent))
    judge(found, "Prices.of, result", case.said)


@pytest.mark.parametrize("case", CASES, ids=shown)
def test_an_argument_must_be_readable_by_the_provider(case: Case) -> None:
    found = differences("Prices", described(case.sent, int), described(case.read, int))
    if case.said is None:
        judge(found, "Prices.of, arguments", None)
    else:
        assert any(one.is_breaking and "thing" in one.reason for one in found), found


@pytest.mark.parametrize("case", CASES, ids=shown)
def test_an_older_subscriber_must_read_published_messages(case: Case) -> None:
    found = list(message_differences("Told", reader=message(case.read), publisher=message(case.sent)))
    assert any(one.is_breaking for one in found) == (case.said is not None), found


@pytest.mark.parametrize("case", CASES, ids=shown)
def test_newer_code_must_read_stored_messages(case: Case) -> None:
    found = list(stored_differences("Told", reader=message(case.read), publisher=message(case.sent)))
    assert any(one.is_breaking for one in found) == (case.said is not None), found


@pytest.mark.parametrize("case", CASES, ids=shown)
def test_the_same_contract_does_not_differ(case: Case) -> None:
    assert differences("Prices", described(case.sent, case.sent), described(case.sent, case.sent)) == []


@pytest.mark.parametrize("case", CASES, ids=shown)
def test_a_type_can_be_read_by_itself_beside_another_difference(case: Case) -> None:
    """Equal schemas are not compared in detail, so the other field makes the comparison examine this one."""
    more = create_model("Both", one=(case.sent, ...), other=(int, 0))
    less = create_model("Both", one=(case.sent, ...))
    found = differences("Prices", described(less, less), described(more, more))
    assert {one.effect for one in found} == {Effect.ADDED}, found


def test_documentation_is_no_difference() -> None:
    said = create_model("Price", __doc__="Other words.", cents=(int, Field(description="Not euros.", title="Money")))
    assert described(int, said) == described(int, Price)


def test_another_default_is_no_difference() -> None:
    other = create_model("DefaultPrice", cents=(int, 5))
    assert described(other, other) == described(DefaultPrice, DefaultPrice)


def test_an_example_is_no_difference() -> None:
    extra: dict[str, Any] = {"example": 3, "x-owner": "shop"}
    said = create_model("Price", cents=(int, Field(json_schema_extra=extra)))
    assert described(int, said) == described(int, Price)


@pytest.mark.parametrize(
    ("mine", "theirs", "effect", "said"),
    [
        (PriceAndMore, Price, Effect.REMOVED, "words is not sent"),
        (Price, PriceAndMore, Effect.ADDED, "words is sent and ignored"),
    ],
)
def test_a_field_of_a_result_is_removed_or_added(mine: Any, theirs: Any, effect: Effect, said: str) -> None:
    [found] = differences("Prices", described(int, mine), described(int, theirs))
    assert (found.effect, found.reason) == (effect, said)


@pytest.mark.parametrize(
    ("mine", "theirs", "effect", "said"),
    [
        (PriceAndMore, Price, Effect.REMOVED, "thing.words is sent and ignored"),
        (Price, PriceAndMore, Effect.ADDED, "thing.words is not sent"),
    ],
)
def test_a_field_of_an_argument_is_removed_or_added(mine: Any, theirs: Any, effect: Effect, said: str) -> None:
    [found] = differences("Prices", described(mine, int), described(theirs, int))
    assert (found.effect, found.reason) == (effect, said)


def test_a_value_that_is_no_longer_sent_is_no_breaking_difference() -> None:
    found = differences("Prices", described(int, RedOrBlue), described(int, Red))
    assert [one.effect for one in found] == [Effect.ADDED]


def test_another_version_another_member_and_another_safety_are_reported() -> None:
    class Prices(Contract):
        async def of(self, thing: int) -> int:
            raise NotImplementedError

        async def largest(self, first: int, then: int = 2) -> int:
            raise NotImplementedError

    class Other(Contract):
        async def of(self, thing: int, more: int = 1) -> int:
            raise NotImplementedError

        async def largest(self, first: int, then: int, last: int) -> int:
            raise NotImplementedError

        async def least(self) -> int:
            raise NotImplementedError

    one, other = WireContract(Prices).description, WireContract(Other).description
    assert sorted(map(str, differences("Prices", one, other))) == [
        "Prices.largest, arguments: last is required, but is not sent",
        "Prices.largest, arguments: then is required, but can be left out",
        "Prices.least: is provided, but not known to the caller",
        "Prices.of, arguments: more is not sent",
    ]
    back = differences("Prices", other, one)
    assert [str(each) for each in back if each.is_breaking] == [
        "Prices.largest, arguments: last is sent, but not accepted",
        "Prices.least: is not provided",
        "Prices.of, arguments: more is sent, but not accepted",
    ]
    assert [each.is_breaking for each in differences("Prices", one, None)] == [True]


def test_positions_of_arguments_matter_only_to_callers_in_the_same_code_base() -> None:
    class Prices(Contract):
        async def of(self, first: int, second: int) -> int:
            raise NotImplementedError

    class Other(Contract):
        async def of(self, second: int, first: int, /) -> int:
            raise NotImplementedError

    found = differences("Prices", WireContract(Prices).description, WireContract(Other).description)
    assert [(one.effect, one.reason) for one in found] == [
        (Effect.REMOVED, "takes other positional arguments: second, first, not first, second"),
        (Effect.REMOVED, "takes first by position only"),
        (Effect.REMOVED, "takes second by position only"),
    ]


@pytest.mark.parametrize("version", [0, -1, "2", True, 1.5])
def test_a_version_of_a_contract_must_be_a_positive_integer(version: Any) -> None:
    with pytest.raises(TypeError, match="must be a whole number from 1"):
        described(int, int, version=version)


def test_a_version_and_safety() -> None:
    plain, raised = described(int, int), described(int, int, version=2)
    [found] = differences("Prices", plain, raised)
    assert (str(found), found.is_breaking) == ("Prices: is called as version 1 and provided as version 2", True)
    is_safe = described(int, int, is_safe=True)
    [found] = differences("Prices", is_safe, plain)
    assert (str(found), found.is_breaking) == ("Prices.of: is not @safe, but the caller repeats it", True)
    [found] = differences("Prices", plain, is_safe)
    assert not found.is_breaking


def test_descriptions_with_equal_fingerprints_are_not_compared() -> None:
    class Prices(Contract):
        async def of(self, thing: int) -> int:
            raise NotImplementedError

    mine = with_fingerprint(WireContract(Prices).description)
    assert len(mine["fingerprint"]) == 64
    assert compare({"Prices": mine}, {"Prices": {**mine, "description": {}}}) == []
    assert compare({"Prices": mine}, {}) == [Difference("Prices", Effect.REFUSED, "is not provided")]


@pytest.mark.parametrize(
    "theirs",
    [
        {"fingerprint": "x"},
        {"fingerprint": "x", "description": []},
        {"fingerprint": "x", "description": {"format": 2}},
        {"fingerprint": "x", "description": {"format": 2, "version": 1, "methods": {"of": 1}, "errors": {}}},
    ],
)
def test_an_invalid_description_is_named_in_the_error(theirs: Any) -> None:
    class Prices(Contract):
        async def of(self, thing: int) -> int:
            raise NotImplementedError

    with pytest.raises(ValueError, match="Prices is not described as this kernel describes contracts"):
        compare({"Prices": with_fingerprint(WireContract(Prices).description)}, {"Prices": theirs})


def test_a_definition_that_refers_to_itself_ends_the_comparison() -> None:
    mine, theirs = described(int, int), described(int, int)
    theirs["methods"]["of"]["result"]["sent"] = {"$defs": {"A": {"$ref": "#/$defs/A"}}, "$ref": "#/$defs/A"}
    with pytest.raises(ValueError, match="refers to itself"):
        differences("Prices", mine, theirs)


def test_a_description_by_another_version_of_the_kernel_is_not_compared() -> None:
    other = described(int, str) | {"format": 1}
    [found] = differences("Prices", described(int, int), other)
    assert (found.is_breaking, found.reason.endswith("was not compared")) == (False, True)


def test_a_newer_version_of_a_message_cannot_be_read() -> None:
    [found] = differences("Told", message(int), message(int, version=2))
    assert (found.is_breaking, found.reason) == (True, "is published as version 2 and read up to version 1")


def test_an_older_version_of_a_message_is_read_by_its_upcasts_only() -> None:
    [found] = differences("Told", message(int, version=2), message(int))
    assert (found.is_breaking, found.reason) == (True, "is published as version 1 and read from version 2 on")
    [found] = differences("Told", message(int, version=2) | {"oldest": 1}, message(int))
    assert not found.is_breaking


def test_a_message_and_a_contract_of_one_name_differ() -> None:
    assert [one.is_breaking for one in differences("Told", message(int), described(int, int))] == [True]


class Local(BaseModel):
    """A second class, so that the table's classes are not the only ones."""

    price: Price


def test_a_nested_class_is_described_with_its_definition() -> None:
    [found] = differences("Prices", described(int, Local), described(int, create_model("Local", price=(Red, ...))))
    assert "price is sent as string and read as object" in found.reason
