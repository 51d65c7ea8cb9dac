"""Articles over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Query

from kernel import public, with_session
from kernel.ext.paging import Page
from modules.articles.repository import ArticleRepository
from modules.articles.schemas import ArticleOut

router = APIRouter()


@router.get("", dependencies=[public])
async def find_articles(
    query: Annotated[str, Query(max_length=200)],
    articles: Annotated[ArticleRepository, with_session(ArticleRepository)],
) -> Page[ArticleOut]:
    """Return the first articles that have all words of the query."""
    return await articles.find(query)


@router.get("/chosen", dependencies=[public])
async def read_articles(
    ids: Annotated[list[int], Query(max_length=1000)],
    articles: Annotated[ArticleRepository, with_session(ArticleRepository)],
) -> list[ArticleOut]:
    """Return the articles with these ids."""
    return await articles.find_all(ids)
