"""The contract and the messages of images."""

from pydantic import BaseModel

from kernel import Contract, safe
from kernel.ext.messaging import Message


class ImageInfo(BaseModel, frozen=True):
    """An image as other modules see it. Sizes are in pixels."""

    id: int
    caption: str
    content_type: str
    width: int
    height: int


class Images(Contract):
    """The images that other modules refer to."""

    @safe
    async def get(self, image_id: int) -> ImageInfo | None:
        """Return the image with this id, or None."""
        raise NotImplementedError


class ImageDeleted(Message):
    """An image was deleted. Subscribers should clear their references to it."""

    image_id: int
