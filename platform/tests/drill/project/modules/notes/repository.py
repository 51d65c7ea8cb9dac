"""The queries of notes."""

from sqlalchemy.ext.asyncio import AsyncSession

from kernel.database import BaseRepository
from modules.notes.models import Note
from modules.notes.schemas import NoteOut, NoteQuery


class NoteRepository(BaseRepository[Note, int]):
    """The table of notes."""

    def __init__(self, session: AsyncSession) -> None:
        super().__init__(Note, session)

    async def find(self, query: NoteQuery) -> list[NoteOut]:
        """Return some notes, ordered by title."""
        statement = self.select() if query.title is None else self.select().where(Note.title == query.title)
        statement = statement.order_by(Note.title, Note.id).limit(query.limit).offset(query.offset)
        return await self.all(statement, into=NoteOut)
