"""Every query that images asks of the database."""

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
