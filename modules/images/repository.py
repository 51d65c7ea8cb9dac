"""Every query that images asks of the database."""

from collections.abc import Collection

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from kernel.database import BaseRepository, Page, Sort
from modules.images.models import Image
from modules.images.schemas import ImageOut, ImageQuery, ImageSort


class ImageRepository(BaseRepository[Image, int]):
    """The table of images."""

    def __init__(self, session: AsyncSession) -> None:
        super().__init__(Image, session)

    async def find(self, query: ImageQuery) -> Page[ImageOut]:
        """A page of all images. Raises InvalidCursor."""
        return await self.page(query, ImageOut, order=Sort(Image.created_at, descending=query.sort is ImageSort.NEWEST))

    async def named(self, keys: Collection[str]) -> set[str]:
        """Those of these keys that a row names."""
        columns = (Image.content_key, Image.thumbnail_key)
        rows = await self.session.execute(select(*columns).where(or_(*(column.in_(keys) for column in columns))))
        return {key for row in rows for key in row}.intersection(keys)
