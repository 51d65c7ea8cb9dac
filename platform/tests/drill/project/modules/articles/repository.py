"""The queries of articles."""

from collections.abc import Collection

from sqlalchemy import true
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.ext.membership import get_many
from kernel.ext.paging import Page, PagedRepository, PageRequest
from kernel.ext.search import has_words
from modules.articles.models import Article
from modules.articles.schemas import ArticleOut


class ArticleRepository(PagedRepository[Article, int]):
    """The table of articles."""

    def __init__(self, session: AsyncSession) -> None:
        super().__init__(Article, session)

    async def find(self, query: str) -> Page[ArticleOut]:
        """Return the first articles that have all words of the query."""
        condition = has_words("text", query)
        return await self.page(PageRequest(), ArticleOut, true() if condition is None else condition)

    async def find_all(self, ids: Collection[int]) -> list[ArticleOut]:
        """Return the articles with these ids."""
        return await get_many(self, ids, into=ArticleOut)
