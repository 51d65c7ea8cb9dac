"""What goes over the wire."""

import datetime as dt
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints, model_validator

from kernel.database import PageRequest
from kernel.fields import Day, Id, IsLocalTime, LocalTime, NoNul, Omittable, RequestBody

Title = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    Field(examples=["Summer concert"]),
    NoNul,
]
Description = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=10_000),
    Field(examples=["Songs of three centuries, in the open air."]),
    NoNul,
]
Location = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=200), Field(examples=["Town hall"]), NoNul
]
# An example that every database accepts: no image, instead of one that may not exist.
ImageId = Annotated[Id | None, Field(examples=[None])]


class EventIn(RequestBody):
    """A whole event, to create or to replace one."""

    title: Title
    description: Description = ""
    date: Day
    time: LocalTime = Field(description="Local to the place, without a zone.")
    location: Location = ""
    image_id: ImageId = None
    is_draft: bool = Field(False, description="Seen by you alone.")


class EventPatch(RequestBody):
    """The fields to change; those left out stay as they are."""

    title: Title = Omittable
    description: Description = Omittable
    date: Day = Omittable
    time: LocalTime = Omittable
    location: Location = Omittable
    image_id: ImageId = Omittable
    is_draft: bool = Omittable


class EventOut(BaseModel):
    """An event as it is stored."""

    id: int
    title: str
    description: str
    date: dt.date
    time: Annotated[dt.time, IsLocalTime]
    location: str
    image_id: int | None
    is_draft: bool
    created_at: dt.datetime
    updated_at: dt.datetime
    version: int = Field(description="Also the ETag: send it as If-Match to change only what you have seen.")


class EventSort(StrEnum):
    """The orders in which events can be listed; `-` is descending."""

    DATE = "date"
    LATEST = "-date"
    TITLE = "title"
    TITLE_DESCENDING = "-title"
    OLDEST = "created_at"
    NEWEST = "-created_at"


class EventQuery(PageRequest):
    """Which events are wanted, in which order, and which page of them."""

    q: Annotated[str, StringConstraints(strip_whitespace=True, max_length=100), NoNul] | None = Field(
        None, description="Words that all begin a word of the title, description or location."
    )
    location: Location | None = Field(None, description="Exactly this location.")
    date_from: Day | None = Field(None, description="On this day or later.")
    date_to: Day | None = Field(None, description="On this day or earlier.")
    upcoming: bool = Field(False, description="Today (in UTC) or later.")
    sort: EventSort = EventSort.DATE

    @model_validator(mode="after")
    def _from_before_to(self) -> "EventQuery":
        if self.date_from and self.date_to and self.date_from > self.date_to:
            raise ValueError("date_from is later than date_to")
        return self
