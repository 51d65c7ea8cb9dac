"""What events does when another module tells something."""

from typing import Annotated

from kernel import with_session
from kernel.ext.messaging import subscribe
from modules.events.repository import EventRepository
from modules.images.contract import ImageDeleted

Events = Annotated[EventRepository, with_session(EventRepository.of_all)]


@subscribe(ImageDeleted)
async def forget_image(message: ImageDeleted, events: Events) -> None:
    """What a foreign key would have done, had it been allowed to cross modules."""
    await events.forget_image(message.image_id)
