"""The responses of articles."""

from pydantic import BaseModel

from kernel.ext.relations import RelatedSchema


class CommentOut(BaseModel):
    """A comment."""

    text: str


class ArticleOut(RelatedSchema):
    """An article with its comments."""

    text: str
    comments: list[CommentOut]
