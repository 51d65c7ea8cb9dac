"""Request and response bodies of notes."""

from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Text = Annotated[str, StringConstraints(max_length=10_000)]


class NoteIn(BaseModel):
    """A note to create."""

    title: Title
    text: Text = ""


class NotePatch(BaseModel):
    """The fields to change; fields that are left out stay as they are."""

    title: Title = ""
    text: Text = ""


class NoteOut(BaseModel):
    """A note as it is stored."""

    id: int
    title: str
    text: str
    version: int


class NoteQuery(BaseModel):
    """Which notes are listed."""

    title: Title | None = None
    limit: int = Field(20, ge=1, le=100)
    offset: int = Field(0, ge=0, le=1_000_000)
