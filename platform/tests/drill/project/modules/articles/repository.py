"""The queries of articles."""

from sqlalchemy import true
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.database import BaseRepository
from kernel.ext.search import has_words
from modules.articles.models import Article


class ArticleRepository(BaseRepository[Article, int]):
    """The table of articles."""

    def __init__(self, session: AsyncSession) -> None:
        super().__init__(Article, session)

    async def count_with(self, query: str) -> int:
        """Return the number of articles that have all words of the query."""
        condition = has_words("text", query)
        return await self.count(true() if condition is None else condition)
