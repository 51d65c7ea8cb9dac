"""Request and response bodies of events."""

import datetime as dt
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints, model_validator

from kernel.ext.fields import Day, Id, IsLocalTime, LocalTime, NoNul, Omittable, RequestBody
from kernel.ext.paging import PageRequest

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
# None is an example that works on every database; an image with a given id may not exist.
ImageId = Annotated[Id | None, Field(examples=[None])]


class EventIn(RequestBody):
    """All fields of an event, to create or replace it."""

    title: Title
    description: Description = ""
    date: Day
    time: LocalTime = Field(description="Local time at the location, without a time zone.")
    location: Location = ""
    image_id: ImageId = None
    is_draft: bool = Field(False, description="Only you can read a draft.")


class EventPatch(RequestBody):
    """The fields to change. Omitted fields keep their values."""

    title: Title = Omittable
    description: Description = Omittable
    date: Day = Omittable
    time: LocalTime = Omittable
    location: Location = Omittable
    image_id: ImageId = Omittable
    is_draft: bool = Omittable


class EventOut(BaseModel):
    """A stored event."""

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
    version: int = Field(description="Also the ETag. Send it as If-Match to prevent overwriting a newer version.")


class EventSort(StrEnum):
    """The sort orders of the list. A leading `-` means descending."""

    DATE = "date"
    LATEST = "-date"
    TITLE = "title"
    TITLE_DESCENDING = "-title"
    OLDEST = "created_at"
    NEWEST = "-created_at"


class EventQuery(PageRequest):
    """Filters, sort order and page of a list of events."""

    q: Annotated[str, StringConstraints(strip_whitespace=True, max_length=100), NoNul] | None = Field(
        None, description="Words; each must begin a word of the title, description or location."
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
