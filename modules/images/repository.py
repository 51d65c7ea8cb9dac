"""The database queries of images."""

import uuid
from collections.abc import Collection
from typing import TypedDict, Unpack

from sqlalchemy import bindparam, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from kernel import Principal
from kernel.ext.membership import any_of
from kernel.ext.paging import Page, PagedRepository, Sort
from modules.images.models import Image, StorageIdentity
from modules.images.schemas import ImageOut, ImageQuery, ImageSort

_OWN = Image.owner == bindparam("caller", type_=Image.owner.type)


class NewImage(TypedDict):
    """The columns of a new image."""

    caption: str
    content_type: str
    width: int
    height: int
    size_bytes: int
    sha256: str
    content_key: str
    thumbnail_key: str


class ImageRepository(PagedRepository[Image, int]):
    """The images that a caller can read and change: every caller reads all images, and only the owner changes one.

    Callers with the scope `images:admin` can change every image.
    """

    def __init__(self, session: AsyncSession, caller: Principal) -> None:
        super().__init__(Image, session)
        self.caller = caller
        if not caller.may("images:admin"):
            self.restrict(true(), _OWN, caller=caller.key)

    @classmethod
    def of_all(cls, session: AsyncSession) -> "ImageRepository":
        """Return a repository without restrictions, for work without a caller: contracts and commands."""
        return cls(session, Principal("images", frozenset({"images:admin"})))

    async def find(self, query: ImageQuery) -> Page[ImageOut]:
        """Return a page of all images. Raises InvalidCursor."""
        return await self.page(query, ImageOut, order=Sort(Image.created_at, descending=query.sort is ImageSort.NEWEST))

    async def add(self, **columns: Unpack[NewImage]) -> ImageOut:
        """Create an image that belongs to the caller."""
        return await self.create(into=ImageOut, owner=self.caller.key, **columns)

    async def referenced(self, keys: Collection[str]) -> set[str]:
        """Return the keys that a row refers to."""
        columns = (Image.content_key, Image.thumbnail_key)
        rows = await self.session.execute(select(*columns).where(or_(*(any_of(column, keys) for column in columns))))
        return {key for row in rows for key in row}.intersection(keys)


class StorageIdentityRepository(PagedRepository[StorageIdentity, int]):
    """The row that names this database in the object store."""

    def __init__(self, session: AsyncSession) -> None:
        super().__init__(StorageIdentity, session)

    async def get(self) -> str | None:
        """Return the name, or None if no process has needed one yet."""
        name: str | None = await self.session.scalar(select(StorageIdentity.value))
        return name

    async def get_or_create(self) -> str:
        """Return the name. Raises IntegrityError if another process creates it at the same moment."""
        return await self.get() or (await self.create(id=1, value=uuid.uuid4().hex)).value
