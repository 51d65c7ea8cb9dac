"""Which differences between the caller's contract and the callee's can be lived with, and which cannot."""

from datetime import date, datetime
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, computed_field, create_model
from typing_extensions import TypedDict

from kernel.contracts import Contract, safe
from kernel.remote import compare as comparing
from kernel.remote.compare import Difference, compare
from kernel.remote.wire import WireContract


class Price(BaseModel):
    cents: int


class PriceAndMore(BaseModel):
    """A price in other words, and a field that its readers may ignore."""

    cents: int = Field(description="Not euros.", title="Money")
    words: str = ""


class MaybePrice(BaseModel):
    cents: int | None


class DefaultPrice(BaseModel):
    cents: int = 0


class StrictPrice(BaseModel):
    model_config = ConfigDict(extra="forbid")
    cents: int


class ComputedPrice(BaseModel):
    euros: int

    @computed_field
    def cents(self) -> int:
        return self.euros * 100


class Renamed(BaseModel):
    cent: int


class Titled(BaseModel):
    """Its field has the name of what JSON Schema says of fields."""

    title: str
    description: int
    default: int = 3
    properties: dict[str, int] = {}


class Untitled(BaseModel):
    title: int
    description: int
    default: int = 3
    properties: dict[str, int] = {}


class Tree(BaseModel):
    leaf: int
    kids: list["Tree"] = []


class BiggerTree(BaseModel):
    leaf: int | str
    kids: list["BiggerTree"] = []


class HoldsMaybe(BaseModel):
    item: MaybePrice


class Holds(BaseModel):
    item: Price


class HoldsMore(BaseModel):
    item: Price
    more: int = 0


class Red(StrEnum):
    RED = "red"


class RedOrBlue(StrEnum):
    RED = "red"
    BLUE = "blue"


class One(IntEnum):
    ONE = 1


class Pair(NamedTuple):
    row: int
    seat: str


class Swapped(NamedTuple):
    seat: str
    row: int


class Open(TypedDict, total=False):
    cents: int


class Full(TypedDict):
    cents: int


SHORT = Annotated[str, StringConstraints(max_length=5)]
LONG = Annotated[str, StringConstraints(max_length=50)]
CODE = Annotated[str, StringConstraints(pattern="^[a-z]$")]
WORD = Annotated[str, StringConstraints(pattern="^[a-z]+$")]
SMALL = Annotated[int, Field(ge=1, le=9)]
LARGE = Annotated[int, Field(ge=0, le=99)]
UNEVEN = Annotated[int, Field(multiple_of=3)]

# What is sent, what is expected, and what is said of it: None where it can be read.
SENT_AND_READ: list[tuple[Any, Any, str | None]] = [
    (int, float, None),
    (float, int, "it is sent as number and read as integer"),
    (int, str, "it is sent as integer and read as string"),
    (bool, int, "it is sent as boolean and read as integer"),
    (int, int | None, None),
    (int | None, int, "it is sent as null and read as integer"),
    (int | str, str | int, None),
    (int | str, int | str | None, None),
    (int | str | None, int | str, "it is sent as null"),
    (str, Decimal, None),
    (Decimal, str, None),
    (datetime, date, "it must keep to another format"),
    (datetime, str, None),
    (str, datetime, "it must keep to another format"),
    (UUID, str, None),
    (str, UUID, "it must keep to another format"),
    (Literal["a"], Literal["a", "b"], None),
    (Literal["a", "b"], Literal["a"], "it may be 'b', which is not known"),
    (Literal["a"], str, None),
    (Literal[1], str, "it is sent as integer and read as string"),
    (Literal["a"], SHORT, "it is one of 'a', and must keep to bounds"),
    (str, Literal["a"], "it may be more than 'a'"),
    (Literal[True], Literal[1], "it may be True, which is not known"),
    (Red, RedOrBlue, None),
    (RedOrBlue, Red, "it may be 'blue', which is not known"),
    (Red, str, None),
    (One, Literal[1, 2], None),
    (SHORT, LONG, None),
    (LONG, SHORT, "it may be more than its maxLength of 5"),
    (str, SHORT, "it may be more than its maxLength of 5"),
    (SHORT, str, None),
    (SMALL, LARGE, None),
    (LARGE, SMALL, "it may be less than its minimum of 1"),
    (int, UNEVEN, "it must keep to another multipleOf"),
    (CODE, WORD, "it must keep to another pattern"),
    (CODE, str, None),
    (list[int], list[float], None),
    (list[int | None], list[int], "[] is sent as null and read as integer"),
    (set[int], list[int], None),
    (list[int], frozenset[int], None),
    (list[int], tuple[int, ...], None),
    (tuple[int, int], list[int], None),
    (tuple[int, str], list[int], "[1] is sent as string and read as integer"),
    (list[int], tuple[int, int], "it may be less than its minItems of 2"),
    (tuple[int, int, int], tuple[int, int], "it may be more than its maxItems of 2"),
    (Annotated[list[int], Field(max_length=3)], Annotated[list[int], Field(max_length=2)], "its maxItems of 2"),
    (Pair, tuple[int, str], None),
    (Pair, Swapped, "[0] is sent as integer and read as string"),
    (dict[str, int], dict[str, float], None),
    (dict[str, int | None], dict[str, int], "* is sent as null and read as integer"),
    (dict[str, int], dict[Red, int], "a key of it may be more than 'red'"),
    (dict[Red, int], dict[RedOrBlue, int], None),
    (dict[str, int], Price, "cents is demanded and not sent"),
    (dict[str, str], Open, "cents is sent as string and read as integer"),
    (Price, dict[str, int], None),
    (Price, dict[str, str], "cents is sent as integer and read as string"),
    (PriceAndMore, Price, None),
    (Price, PriceAndMore, None),
    (DefaultPrice, Price, None),
    (ComputedPrice, Price, None),
    (Open, Price, "cents is demanded and may be left out"),
    (Full, Price, None),
    (Open, DefaultPrice, None),
    (MaybePrice, Price, "cents is sent as null and read as integer"),
    (Renamed, Price, "cents is demanded and not sent"),
    (PriceAndMore, StrictPrice, "words is sent and not known"),
    (Price, StrictPrice, None),
    (dict[str, int], StrictPrice, "* may be anything"),
    (Titled, Untitled, "title is sent as string and read as integer"),
    (list[MaybePrice], list[Price], "[].cents is sent as null"),
    (dict[str, MaybePrice], dict[str, Price], "*.cents is sent as null"),
    (Tree, BiggerTree, None),
    (BiggerTree, Tree, "leaf is sent as string and read as integer"),
    (Price | Renamed, Price, "cents is demanded and not sent"),
    (Price, Renamed | Price, None),
    (HoldsMaybe, Holds | HoldsMore, "item.cents is sent as null"),
    (Price, Any, None),
    (Any, Price, "it may be anything, and is not taken"),
    (None, int, "it is sent as null and read as integer"),
    (None, int | None, None),
]


def differences(contract: str, mine: Any, theirs: Any) -> list[Difference]:
    return list(comparing.differences(contract, mine, theirs))


def described(argument: Any, result: Any, **more: Any) -> Any:
    """The description of a contract with one method."""

    class Prices(Contract, version=more.pop("version", 1)):
        async def of(self, thing: argument) -> result:
            raise NotImplementedError

    if more.get("is_safe"):
        safe(Prices.of)
    return WireContract(Prices).description


def shown(value: object) -> str:
    return str(value).replace("tests.kernel.test_remote_compare.", "")


def judge(found: list[Difference], member: str, said: str | None) -> None:
    breaking = [one for one in found if one.is_breaking]
    if said is None:
        assert not breaking
        assert len(found) <= 1
    else:
        assert breaking
        assert all(one.member == member for one in breaking)
        assert any(said in one.reason for one in breaking), breaking


@pytest.mark.parametrize(("sent", "read", "said"), SENT_AND_READ, ids=shown)
def test_a_result_must_be_what_the_caller_reads(sent: Any, read: Any, said: str | None) -> None:
    judge(differences("Prices", described(int, read), described(int, sent)), "Prices.of, result", said)


@pytest.mark.parametrize(("sent", "read", "said"), SENT_AND_READ, ids=shown)
def test_an_argument_must_be_what_the_callee_takes(sent: Any, read: Any, said: str | None) -> None:
    reason = None if said is None else said.replace("it ", "thing ", 1).removesuffix("it").replace("[]", "thing[]")
    found = differences("Prices", described(sent, int), described(read, int))
    if reason is None:
        judge(found, "Prices.of, arguments", None)
    else:
        assert any(one.is_breaking and "thing" in one.reason for one in found), found


@pytest.mark.parametrize("type_", [one for one, _, _ in SENT_AND_READ], ids=shown)
def test_the_same_contract_does_not_differ(type_: Any) -> None:
    assert differences("Prices", described(type_, type_), described(type_, type_)) == []


def test_words_for_people_are_no_difference() -> None:
    said = create_model("Price", __doc__="Other words.", cents=(int, Field(description="Not euros.", title="Money")))
    assert described(int, said) == described(int, Price)


def test_another_version_another_member_and_another_promise() -> None:
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
        "Prices.largest, arguments: last is demanded and not sent",
        "Prices.largest, arguments: then is demanded and may be left out",
        "Prices.least: is provided there and not known here",
        "Prices.of, arguments: differs, and can be read",
    ]
    back = differences("Prices", other, one)
    assert [str(each) for each in back if each.is_breaking] == [
        "Prices.largest, arguments: last is sent and not known",
        "Prices.least: is not provided there",
        "Prices.of, arguments: more is sent and not known",
    ]
    assert [each.is_breaking for each in differences("Prices", one, None)] == [True]


def test_a_version_and_safety() -> None:
    plain, raised = described(int, int), described(int, int, version=2)
    [found] = differences("Prices", plain, raised)
    assert (str(found), found.is_breaking) == ("Prices: is asked as version 1 and provided as version 2", True)
    is_safe = described(int, int, is_safe=True)
    [found] = differences("Prices", is_safe, plain)
    assert (str(found), found.is_breaking) == ("Prices.of: is not safe there, but is repeated here", True)
    [found] = differences("Prices", plain, is_safe)
    assert not found.is_breaking


def test_equal_fingerprints_are_not_looked_into() -> None:
    class Prices(Contract):
        async def of(self, thing: int) -> int:
            raise NotImplementedError

    mine = WireContract(Prices).described
    assert len(mine["fingerprint"]) == 64
    assert compare({"Prices": mine}, {"Prices": {**mine, "description": {}}}) == []
    assert compare({"Prices": mine}, {}) == [Difference("Prices", True, "is not provided there")]
