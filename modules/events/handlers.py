"""Handlers for messages of other modules."""

from typing import Annotated

from kernel import with_session
from kernel.ext.messaging import subscribe
from modules.events.repository import EventRepository
from modules.images.contract import ImageDeleted

Events = Annotated[EventRepository, with_session(EventRepository.of_all)]


@subscribe(ImageDeleted)
async def forget_image(message: ImageDeleted, events: Events) -> None:
    """Clear all references to the deleted image, as a foreign key would in one module."""
    await events.forget_image(message.image_id)
