"""Request and response bodies in plain pydantic, with the same fields and limits as those of the modules."""

import datetime as dt
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints


def _without_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain the character NUL")
    return text


def _without_zone(value: dt.time) -> dt.time:
    if value.tzinfo is not None:
        raise ValueError("must be without a zone")
    return value


_NoNul = AfterValidator(_without_nul)
Id = Annotated[int, Field(ge=1, le=2**63 - 1)]
Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), _NoNul]
Description = Annotated[str, StringConstraints(strip_whitespace=True, max_length=10_000), _NoNul]
Location = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200), _NoNul]
Caption = Annotated[str, StringConstraints(strip_whitespace=True, max_length=500), _NoNul]
LocalTime = Annotated[dt.time, AfterValidator(_without_zone)]
_Omittable: Any = None


class EventIn(BaseModel):
    """A whole event."""

    model_config = ConfigDict(extra="forbid")

    title: Title
    description: Description = ""
    date: dt.date
    time: LocalTime
    location: Location = ""
    image_id: Id | None = None
    is_draft: bool = False


class EventPatch(BaseModel):
    """The fields to change."""

    model_config = ConfigDict(extra="forbid")

    title: Title = _Omittable
    description: Description = _Omittable
    date: dt.date = _Omittable
    time: LocalTime = _Omittable
    location: Location = _Omittable
    image_id: Id | None = None
    is_draft: bool = _Omittable


class EventOut(BaseModel):
    """An event as it is stored."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    title: str
    description: str
    date: dt.date
    time: dt.time
    location: str
    image_id: int | None
    is_draft: bool
    created_at: dt.datetime
    updated_at: dt.datetime
    version: int


class EventPage(BaseModel):
    """A part of the list."""

    items: list[EventOut]
    total: int | None
    next_cursor: str | None


class EventSort(StrEnum):
    """The one order that is measured."""

    DATE = "date"


class EventQuery(BaseModel):
    """The query parameters of a list."""

    limit: int = Field(20, ge=1, le=100)
    offset: int = Field(0, ge=0, le=1_000_000)
    cursor: str | None = Field(None, max_length=1000)
    q: Annotated[str, StringConstraints(strip_whitespace=True, max_length=100), _NoNul] | None = None
    location: Location | None = None
    date_from: dt.date | None = None
    date_to: dt.date | None = None
    upcoming: bool = False
    sort: EventSort = EventSort.DATE


class ImageOut(BaseModel):
    """The metadata of a picture."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    caption: str
    content_type: str
    width: int
    height: int
    size_bytes: int
    created_at: dt.datetime
    updated_at: dt.datetime
    version: int


class Status(BaseModel):
    """An answer to a probe."""

    status: Literal["alive"]
