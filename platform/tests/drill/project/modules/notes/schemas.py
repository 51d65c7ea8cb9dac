"""What goes over the wire."""

from typing import Annotated

from pydantic import BaseModel, StringConstraints

from kernel.database import PageRequest
from kernel.fields import NoNul, Omittable, RequestBody

Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), NoNul]
Text = Annotated[str, StringConstraints(max_length=10_000), NoNul]


class NoteIn(RequestBody):
    """A note to create."""

    title: Title
    text: Text = ""


class NotePatch(RequestBody):
    """The fields to change; fields that are left out stay as they are."""

    title: Title = Omittable
    text: Text = Omittable


class NoteOut(BaseModel):
    """A note as it is stored."""

    id: int
    title: str
    text: str
    version: int


class NoteQuery(PageRequest):
    """Which page of notes, and of which title."""

    title: Title | None = None
