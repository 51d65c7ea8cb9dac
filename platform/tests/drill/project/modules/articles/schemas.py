"""The responses of articles."""

from typing import Annotated

from pydantic import BaseModel

from kernel.ext.fields import NoNul
from kernel.ext.relations import RelatedSchema


class CommentOut(BaseModel):
    """A comment."""

    text: Annotated[str, NoNul]


class ArticleOut(RelatedSchema):
    """An article with its comments."""

    text: str
    comments: list[CommentOut]
