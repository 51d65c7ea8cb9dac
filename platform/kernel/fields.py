"""Types for what arrives over the wire: bounded, and free of what no database stores."""

from datetime import time
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _without_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain the character NUL")
    return text


def _without_zone(value: time) -> time:
    if value.tzinfo is not None:
        raise ValueError("must be the local time of the place, without a zone")
    return value


NoNul = AfterValidator(_without_nul)
"""For text: PostgreSQL cannot store NUL. Put it last: `Annotated[str, StringConstraints(max_length=200), NoNul]`."""

LocalTime = Annotated[time, AfterValidator(_without_zone)]
"""A time of day where the thing takes place."""

Id = Annotated[int, Field(ge=1, le=2**63 - 1)]
"""A primary key: 64 bits, as the column."""


class RequestBody(BaseModel):
    """Base of what a caller sends: unknown fields are refused, so that a misspelled one is not lost."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def _drop_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


Omittable: Any = Field(default=None, json_schema_extra=_drop_default)
"""For a field of a PATCH body that may be left out, but, if its type does not say so, not be null.

Read such a body with `model_dump(exclude_unset=True)`: the default is never used.
"""
