"""Articles over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Query

from kernel import public, with_session
from modules.articles.repository import ArticleRepository

router = APIRouter()


@router.get("", dependencies=[public])
async def count_articles(
    query: Annotated[str, Query(max_length=200)],
    articles: Annotated[ArticleRepository, with_session(ArticleRepository)],
) -> int:
    """Return the number of articles that have all words of the query."""
    return await articles.count_with(query)
