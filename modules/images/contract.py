"""What other modules may ask about images, and what images tells them."""

from pydantic import BaseModel

from kernel import Contract, safe
from kernel.ext.messaging import Message


class ImageInfo(BaseModel, frozen=True):
    """A picture as others see it. Sizes are in pixels."""

    id: int
    caption: str
    content_type: str
    width: int
    height: int


class Images(Contract):
    """What other modules may ask about images."""

    @safe
    async def get(self, image_id: int) -> ImageInfo | None:
        """The picture with this id, or None."""
        raise NotImplementedError


class ImageDeleted(Message):
    """A picture is gone: whoever refers to it should forget it."""

    image_id: int
