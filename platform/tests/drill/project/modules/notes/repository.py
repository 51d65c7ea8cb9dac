"""The queries of notes."""

from sqlalchemy.ext.asyncio import AsyncSession

from kernel.database import BaseRepository, Page, Sort
from modules.notes.models import Note
from modules.notes.schemas import NoteOut, NoteQuery


class NoteRepository(BaseRepository[Note, int]):
    """The table of notes."""

    def __init__(self, session: AsyncSession) -> None:
        super().__init__(Note, session)

    async def find(self, query: NoteQuery) -> Page[NoteOut]:
        """Return a page of notes, ordered by title. Raises InvalidCursor."""
        where = [] if query.title is None else [Note.title == query.title]
        return await self.page(query, NoteOut, *where, order=Sort(Note.title))
