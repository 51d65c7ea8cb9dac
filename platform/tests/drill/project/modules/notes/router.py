"""Notes over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from kernel import or_404, problems, public, requires, with_session
from modules.notes.repository import NoteRepository
from modules.notes.schemas import NoteIn, NoteOut, NotePatch, NoteQuery

router = APIRouter()

NoteId = Annotated[int, Path(ge=1, le=2**31)]
Version = Annotated[int | None, Query()]
Notes = Annotated[NoteRepository, with_session(NoteRepository)]


@router.get("", dependencies=[public])
async def list_notes(query: Annotated[NoteQuery, Query()], notes: Notes) -> list[NoteOut]:
    """List notes by title."""
    return await notes.find(query)


@router.post("", status_code=201, dependencies=[requires("notes:write")])
async def create_note(note: NoteIn, notes: Notes, request: Request, response: Response) -> NoteOut:
    """Create a note."""
    created = await notes.create(into=NoteOut, **note.model_dump())
    response.headers["Location"] = f"{request.url.path}/{created.id}"
    return created


@router.get("/{note_id}", dependencies=[public], responses=problems(404))
async def read_note(note_id: NoteId, notes: Notes) -> NoteOut:
    """Read one note."""
    return or_404(await notes.get_by_id(note_id, into=NoteOut), "note")


@router.patch("/{note_id}", dependencies=[requires("notes:write")], responses=problems(404, 409))
async def patch_note(note_id: NoteId, note: NotePatch, notes: Notes, version: Version = None) -> NoteOut:
    """Change some fields of a note, if `version` is given only that version of it."""
    values = note.model_dump(exclude_unset=True)
    return or_404(await notes.update(note_id, into=NoteOut, expected_version=version, **values), "note")


@router.delete("/{note_id}", status_code=204, dependencies=[requires("notes:write")], responses=problems(404, 409))
async def delete_note(note_id: NoteId, notes: Notes, version: Version = None) -> None:
    """Delete a note, if `version` is given only that version of it."""
    or_404(await notes.delete(note_id, expected_version=version), "note")
