"""The table of the effects of a sender's type on a reader's type.

The lock of the contracts, the comparison between processes and messages in both directions all use it. Each case has a
value that the sender can send, and a test verifies that pydantic reads or refuses it as the table says.
"""

from collections.abc import Sequence
from dataclasses import dataclass as std_dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

from pydantic import (
    UUID4,
    AfterValidator,
    AnyUrl,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    Strict,
    StringConstraints,
    computed_field,
    field_validator,
)
from typing_extensions import TypedDict

from kernel.ext.fields import Id, NoNul, RequestBody


@std_dataclass(frozen=True)
class Case:
    """A type that is sent and a type that reads it."""

    sent: Any
    read: Any
    # A part of the reason for a possible refusal; None if every sent value can be read.
    said: str | None
    # JSON that the sender can send.
    witness: str
    # The comparison refuses it although pydantic would read this value, because it cannot know the meaning.
    is_cautious: bool = False


class Price(BaseModel):
    cents: int


class PriceAndMore(BaseModel):
    """A price with other descriptions, and a field that its readers may ignore."""

    cents: int = Field(description="Not euros.", title="Money")
    words: str = ""


class DocumentedPrice(BaseModel):
    model_config = ConfigDict(json_schema_extra={"example": {"cents": 3}, "x-owner": "shop"})
    cents: int = Field(json_schema_extra={"example": 3, "x-unit-of": "money"})


class MaybePrice(BaseModel):
    cents: int | None


class DefaultPrice(BaseModel):
    cents: int = 0


class StrictPrice(BaseModel):
    model_config = ConfigDict(extra="forbid")
    cents: int


class RequestPrice(RequestBody):
    cents: int


class FreePrice(BaseModel):
    cents: bool


class ComputedPrice(BaseModel):
    euros: int

    @computed_field
    def cents(self) -> int:
        return self.euros * 100


class SometimesPrice(BaseModel):
    cents: int = Field(default=0, exclude_if=lambda cents: cents == 0)


class CheckedPrice(BaseModel):
    cents: int

    @field_validator("cents")
    @classmethod
    def _is_positive(cls, cents: int) -> int:
        if cents <= 0:
            raise ValueError("must be positive")
        return cents


class Renamed(BaseModel):
    cent: int


class Titled(BaseModel):
    """A class whose fields have the names of keywords of JSON Schema."""

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


class Short(BaseModel):
    model_config = ConfigDict(str_max_length=5)
    text: str


class Long(BaseModel):
    text: str


class Stripped(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True)
    text: Annotated[str, Field(min_length=1)]


class Unstripped(BaseModel):
    text: Annotated[str, Field(min_length=1)]


class Base64(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    data: bytes


class Text(BaseModel):
    data: bytes


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    barks: bool


class Pet(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


class UntaggedPet(BaseModel):
    pet: Cat | Dog


class Red(StrEnum):
    RED = "red"


class RedOrBlue(StrEnum):
    RED = "red"
    BLUE = "blue"


class One(IntEnum):
    ONE = 1


class Order(IntEnum):
    FIRST = 1
    SECOND = 2


class Reordered(IntEnum):
    SECOND = 1
    FIRST = 2


class Pair(NamedTuple):
    row: int
    seat: str


class Swapped(NamedTuple):
    seat: str
    row: int


class Triple(NamedTuple):
    row: int
    seat: str
    floor: int = 0


class Open(TypedDict, total=False):
    cents: int


class Full(TypedDict):
    cents: int


def is_even(value: int) -> int:
    """Return an even number. Raises ValueError."""
    if value % 2:
        raise ValueError("must be even")
    return value


SHORT = Annotated[str, StringConstraints(max_length=5)]
LONG = Annotated[str, StringConstraints(max_length=50)]
CODE = Annotated[str, StringConstraints(pattern="^[a-z]$")]
WORD = Annotated[str, StringConstraints(pattern="^[a-z]+$")]
SMALL = Annotated[int, Field(ge=1, le=9)]
LARGE = Annotated[int, Field(ge=0, le=99)]
THIRD = Annotated[int, Field(multiple_of=3)]
SIXTH = Annotated[int, Field(multiple_of=6)]
ABOVE_ZERO = Annotated[int, Field(gt=0)]
FROM_ONE = Annotated[int, Field(ge=1)]
EVEN = Annotated[int, AfterValidator(is_even)]
CENTS = Annotated[Decimal, Field(max_digits=6, decimal_places=2)]
MILLS = Annotated[Decimal, Field(max_digits=7, decimal_places=3)]

CASES = [
    # Numbers
    Case(int, float, None, "1"),
    Case(float, int, "it is sent as number and read as integer", "1.5"),
    Case(int, str, "it is sent as integer and read as string", "1"),
    Case(bool, int, None, "true"),
    Case(bool, float, None, "true"),
    Case(bool, Annotated[int, Strict()], "it is sent as boolean and read as integer", "true"),
    Case(bool, Decimal, "it is sent as boolean", "true"),
    Case(int, bool, "it is sent as integer and read as boolean", "3"),
    Case(SMALL, LARGE, None, "9"),
    Case(LARGE, SMALL, "it can be less than its minimum of 1", "0"),
    Case(Id, int, None, "1"),
    Case(int, Id, "it can be less than its minimum of 1", "0"),
    Case(ABOVE_ZERO, FROM_ONE, None, "1"),
    Case(FROM_ONE, ABOVE_ZERO, None, "1"),
    Case(Annotated[float, Field(gt=0)], Annotated[float, Field(ge=0)], None, "0.5"),
    Case(Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)], "its exclusiveMinimum of 0", "0"),
    Case(int, THIRD, "it must be a multiple of 3", "1"),
    Case(SIXTH, THIRD, None, "6"),
    Case(THIRD, SIXTH, "it must be a multiple of 6", "3"),
    Case(int, Decimal, None, "1"),
    Case(Decimal, str, None, '"1.5"'),
    Case(str, Decimal, "it is sent", '"x"'),
    Case(CENTS, MILLS, None, '"1.25"'),
    Case(MILLS, CENTS, "it can be more than its decimal-places of 2", '"1.125"'),
    Case(Decimal, CENTS, "its max-digits of 6", '"12345678.5"'),
    Case(Decimal, Annotated[Decimal, Field(ge=1)], "it can be less than its minimum of 1", '"0.5"'),
    Case(EVEN, int, None, "2"),
    Case(int, EVEN, "it must pass the validator is_even", "3"),
    Case(EVEN, EVEN, None, "2"),
    # None and unions
    Case(int, int | None, None, "1"),
    Case(int | None, int, "it is sent as null and read as integer", "null"),
    Case(str | None, str, "it is sent as null and read as string", "null"),
    Case(int | str, str | int, None, '"a"'),
    Case(int | str, int | str | None, None, "1"),
    Case(int | str | None, int | str, "it is sent as null", "null"),
    Case(None, int, "it is sent as null and read as integer", "null"),
    Case(None, int | None, None, "null"),
    # Texts
    Case(SHORT, LONG, None, '"abc"'),
    Case(LONG, SHORT, "it can be more than its maxLength of 5", '"abcdef"'),
    Case(str, SHORT, "it can be more than its maxLength of 5", '"abcdef"'),
    Case(SHORT, str, None, '"abc"'),
    Case(Long, Short, "text can be more than its maxLength of 5", '{"text": "abcdef"}'),
    Case(Short, Long, None, '{"text": "abc"}'),
    Case(Unstripped, Stripped, "text must have another strip", '{"text": " "}'),
    Case(Stripped, Unstripped, None, '{"text": "a"}'),
    Case(CODE, WORD, "it must have another pattern", '"a"', is_cautious=True),
    Case(WORD, CODE, "it must have another pattern", '"ab"'),
    Case(CODE, str, None, '"a"'),
    Case(str, Annotated[str, NoNul], "it must pass the validator _without_nul", '"\\u0000"'),
    Case(Text, Base64, "data is sent with the format binary and read as base64url", '{"data": "+"}'),
    # Times, ids and addresses
    Case(datetime, date, "it is sent with the format date-time", '"2030-01-01T20:00:00"'),
    Case(datetime, str, None, '"2030-01-01T20:00:00"'),
    Case(str, datetime, "it is sent with the format None", '"x"'),
    Case(datetime, AwareDatetime, "it must have another zone", '"2030-01-01T20:00:00"'),
    Case(AwareDatetime, datetime, None, '"2030-01-01T20:00:00Z"'),
    Case(AwareDatetime, AwareDatetime, None, '"2030-01-01T20:00:00Z"'),
    Case(timedelta, str, None, '"PT5S"'),
    Case(UUID, str, None, '"12345678-1234-4234-8234-123456789abc"'),
    Case(str, UUID, "it is sent with the format None", '"x"'),
    Case(UUID4, UUID, None, '"12345678-1234-4234-8234-123456789abc"'),
    Case(UUID, UUID4, "it is sent with the format uuid", '"12345678-1234-1234-8234-123456789abc"'),
    Case(AnyUrl, HttpUrl, "it must have one of the schemes http, https", '"ftp://example.org/"'),
    Case(Annotated[HttpUrl, Field(max_length=50)], AnyUrl, None, '"https://example.org/"'),
    # Choices
    Case(Literal["a"], Literal["a", "b"], None, '"a"'),
    Case(Literal["a", "b"], Literal["a"], "it can be 'b', which is not known", '"b"'),
    Case(Literal["a"], str, None, '"a"'),
    Case(Literal[1], str, "it is sent as integer and read as string", "1"),
    Case(Literal["a"], SHORT, None, '"a"'),
    Case(Literal["abcdef"], SHORT, "it, 'abcdef', can be more than its maxLength of 5", '"abcdef"'),
    Case(Literal[3], SMALL, None, "3"),
    Case(Literal[0], SMALL, "it, 0, can be less than its minimum of 1", "0"),
    Case(str, Literal["a"], "it can be more than 'a'", '"b"'),
    Case(Literal[True], Literal[1], "it can be True, which is not known", "true", is_cautious=True),
    Case(Literal["a", None], Literal["a"] | None, None, "null"),
    Case(Literal["a"] | None, Literal["a", None], None, "null"),
    Case(Literal["a"] | None, Literal["a"], "it can be None, which is not known", "null"),
    Case(Literal["a", 1], str | int, None, "1"),
    Case(Literal["a", 1], str | None, "it is sent as integer", "1"),
    Case(Red, RedOrBlue, None, '"red"'),
    Case(RedOrBlue, Red, "it can be 'blue', which is not known", '"blue"'),
    Case(Literal[Red.RED], Literal[RedOrBlue.RED, RedOrBlue.BLUE], None, '"red"'),
    Case(Literal[RedOrBlue.RED, RedOrBlue.BLUE], Literal[Red.RED], "it can be 'blue'", '"blue"'),
    Case(Red, str, None, '"red"'),
    Case(One, Literal[1, 2], None, "1"),
    Case(Order, Reordered, "it, FIRST, is sent as 1 and read as 2", "1", is_cautious=True),
    # Containers
    Case(list[int], list[float], None, "[1]"),
    Case(list[int | None], list[int], "[] is sent as null and read as integer", "[null]"),
    Case(set[int], list[int], None, "[1]"),
    Case(list[int], frozenset[int], None, "[1, 1]"),
    Case(list[int], Sequence[int], None, "[1]"),
    Case(Sequence[int], Annotated[Sequence[int], Field(max_length=1)], "its maxItems of 1", "[1, 2]"),
    Case(Annotated[list[int], Field(min_length=2)], Annotated[set[int], Field(min_length=2)], "its minItems", "[1, 1]"),
    Case(Annotated[set[int], Field(min_length=2)], Annotated[set[int], Field(min_length=1)], None, "[1, 2]"),
    Case(list[int], tuple[int, ...], None, "[1]"),
    Case(tuple[int, int], list[int], None, "[1, 2]"),
    Case(tuple[int, str], list[int], "[1] is sent as string and read as integer", '[1, "a"]'),
    Case(list[int], tuple[int, int], "it can be less than its minItems of 2", "[1]"),
    Case(tuple[int, int, int], tuple[int, int], "it can be more than its maxItems of 2", "[1, 2, 3]"),
    Case(Annotated[list[int], Field(max_length=3)], Annotated[list[int], Field(max_length=2)], "maxItems of 2",
         "[1, 2, 3]"),
    Case(Pair, tuple[int, str], None, '[1, "a"]'),
    Case(Pair, Swapped, "[0] is sent as integer and read as string", '[1, "a"]'),
    Case(Triple, Pair, "it can be more than its maxItems of 2", '[1, "a", 2]'),
    Case(Pair, Triple, None, '[1, "a"]'),
    Case(dict[str, int], dict[str, float], None, '{"a": 1}'),
    Case(dict[str, int | None], dict[str, int], "* is sent as null and read as integer", '{"a": null}'),
    Case(dict[str, int], dict[Red, int], "a key of it can be more than 'red'", '{"a": 1}'),
    Case(dict[Red, int], dict[RedOrBlue, int], None, '{"red": 1}'),
    Case(dict[int, int], dict[str, int], None, '{"1": 1}'),
    Case(dict[str, int], dict[int, int], "a key of it is sent as string and read as integer", '{"a": 1}'),
    Case(dict[str, int], Price, "cents is required, but is not sent", "{}"),
    Case(dict[str, str], Open, "cents is sent as string and read as integer", '{"cents": "a"}'),
    Case(Price, dict[str, int], None, '{"cents": 1}'),
    Case(Price, dict[str, str], "cents is sent as integer and read as string", '{"cents": 1}'),
    # Classes
    Case(PriceAndMore, Price, None, '{"cents": 1, "words": "a"}'),
    Case(Price, PriceAndMore, None, '{"cents": 1}'),
    Case(DocumentedPrice, Price, None, '{"cents": 1}'),
    Case(Price, DocumentedPrice, None, '{"cents": 1}'),
    Case(DefaultPrice, Price, None, "{}"),
    Case(ComputedPrice, Price, None, '{"euros": 1}'),
    Case(SometimesPrice, Price, "cents is required, but can be left out", "{}"),
    Case(Open, Price, "cents is required, but can be left out", "{}"),
    Case(Full, Price, None, '{"cents": 1}'),
    Case(Open, DefaultPrice, None, "{}"),
    Case(MaybePrice, Price, "cents is sent as null and read as integer", '{"cents": null}'),
    Case(Renamed, Price, "cents is required, but is not sent", '{"cent": 1}'),
    Case(PriceAndMore, StrictPrice, "words is sent, but not accepted", '{"cents": 1}'),
    Case(Price, StrictPrice, None, '{"cents": 1}'),
    Case(RequestPrice, Price, None, '{"cents": 1}'),
    Case(FreePrice, RequestPrice, "cents must pass the validator RequestBody._has_its_type", '{"cents": true}'),
    Case(PriceAndMore, RequestPrice, "words is sent, but not accepted", '{"cents": 1}'),
    Case(Price, CheckedPrice, "cents must pass the validator CheckedPrice._is_positive", '{"cents": 0}'),
    Case(CheckedPrice, Price, None, '{"cents": 1}'),
    Case(dict[str, int], StrictPrice, "* can be anything", '{"cents": 1, "a": 2}'),
    Case(Titled, Untitled, "title is sent as string and read as integer", '{"title": "a", "description": 1}'),
    Case(list[MaybePrice], list[Price], "[].cents is sent as null", '[{"cents": null}]'),
    Case(dict[str, MaybePrice], dict[str, Price], "*.cents is sent as null", '{"a": {"cents": null}}'),
    Case(Tree, BiggerTree, None, '{"leaf": 1, "kids": [{"leaf": 2}]}'),
    Case(BiggerTree, Tree, "leaf is sent as string and read as integer", '{"leaf": "a"}'),
    Case(Price | Renamed, Price, "cents is required, but is not sent", '{"cent": 1}'),
    Case(Price, Renamed | Price, None, '{"cents": 1}'),
    Case(HoldsMaybe, Holds | HoldsMore, "item.cents is sent as null", '{"item": {"cents": null}}'),
    Case(UntaggedPet, Pet, None, '{"pet": {"kind": "cat", "lives": 9}}'),
    Case(Pet, UntaggedPet, None, '{"pet": {"kind": "dog", "barks": true}}'),
    Case(Price, Any, None, '{"cents": 1}'),
    Case(Any, Price, "it can be anything, which is not accepted", "1"),
]  # fmt: skip


def shown(value: object) -> str:
    """Return the name of a case in the list of tests."""
    if isinstance(value, Case):
        return f"{shown(value.sent)} to {shown(value.read)}"
    return getattr(value, "__name__", str(value)).replace("tests.remote.shape_cases.", "")
