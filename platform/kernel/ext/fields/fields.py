"""Types for what arrives over the wire: bounded, and free of what no database stores."""

import re
from datetime import date, time
from functools import cache
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME_PATTERN = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,6})?)?"
_TIME = re.compile(_TIME_PATTERN)


# The locks of contracts name the validators of this file. Renaming one makes every contract that uses it differ.


def _without_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain the character NUL")
    return text


class _NoNul:
    """Says in OpenAPI, too, what is refused: NUL, and text of blanks where they are stripped and none is too short."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(_without_nul, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        text: Any = schema
        while "schema" in text:
            text = text["schema"]
        needs_more = text.get("strip_whitespace") and text.get("min_length")
        pattern = r"^[^\u0000]*[^\s\u0000][^\u0000]*$" if needs_more else r"^[^\u0000]*$"
        # Without an example, documentation tools make text from the pattern, which is line noise.
        return {"examples": ["text"], **handler(schema), "pattern": pattern}


# pydantic would take "0" for the first day of 1970 and "60" for a minute past midnight.


def _day(value: object) -> object:
    if isinstance(value, str) and not _DAY.fullmatch(value):
        raise ValueError("must be a day like 2030-12-31")
    return value


def _local_time(value: object) -> object:
    if isinstance(value, str) and not _TIME.fullmatch(value):
        raise ValueError("must be the local time of the place, like 20:00 or 20:00:30, without a zone")
    return value


NoNul = _NoNul()
"""For text: PostgreSQL cannot store NUL. Put it last: `Annotated[str, StringConstraints(max_length=200), NoNul]`.

Documentation tools show "text" as an example; `Field(examples=["Summer concert"])` before it gives a better one.
"""

Day = Annotated[date, BeforeValidator(_day), Field(examples=["2030-12-31"])]
"""A day of the calendar."""

# A `time` of JSON Schema has a zone.
IsLocalTime = WithJsonSchema({"type": "string", "pattern": f"^{_TIME_PATTERN}$", "examples": ["20:00"]})
"""For a `time` that is answered: OpenAPI says of it what LocalTime says of one that is sent."""

LocalTime = Annotated[time, BeforeValidator(_local_time), IsLocalTime]
"""A time of day where the thing takes place."""

Id = Annotated[int, Field(ge=1, le=2**53 - 1)]
"""A primary key, as far as every reader of JSON can tell one number from the next (RFC 8259, section 6)."""


# The JSON names of values that pydantic would turn into another type: `true` into 1, `"1"` into 1, 0 into a day.
_TURNED = {bool: "boolean", int: "integer", float: "number", str: "string"}


@cache
def _types(model: type[BaseModel]) -> dict[str, frozenset[str]]:
    """The JSON types of each field, as OpenAPI tells them; nothing of a field where it does not."""
    found = {}
    for name, schema in model.model_json_schema(by_alias=False).get("properties", {}).items():
        kinds = {one.get("type", "") for one in schema.get("anyOf", [schema])}
        if "" not in kinds:
            # To JSON 1.0 is an integer, and every integer a number; pydantic knows which.
            found[name] = frozenset(kinds | {"integer", "number"} if kinds & {"integer", "number"} else kinds)
    return found


class RequestBody(BaseModel):
    """Base of what a caller sends: unknown fields are refused, so that a misspelled one is not lost.

    A field takes the JSON types that OpenAPI tells of it, and no others.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _has_its_type(cls, value: Any, info: ValidationInfo) -> Any:
        kind, expected = _TURNED.get(type(value)), _types(cls).get(info.field_name or "")
        if kind is not None and expected is not None and kind not in expected:
            raise PydanticCustomError("json_type", "Input should be of another type")
        return value


def _drop_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


Omittable: Any = Field(default=None, json_schema_extra=_drop_default)
"""For a field of a PATCH body that may be left out, but, if its type does not say so, not be null.

Read such a body with `model_dump(exclude_unset=True)`: the default is never used.
"""
