"""The queries of orders."""

from sqlalchemy.ext.asyncio import AsyncSession

from kernel.database import BaseRepository
from modules.orders.models import Letter


class LetterRepository(BaseRepository[Letter, int]):
    """The table of letters."""

    def __init__(self, session: AsyncSession) -> None:
        super().__init__(Letter, session)
