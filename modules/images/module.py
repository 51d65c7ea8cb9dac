"""The manifest of images."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from kernel import Module, ModuleContext
from kernel.database import DatabaseUnavailable
from modules.images.contract import Images
from modules.images.service import ImageAnswers, ImageService
from modules.images.settings import ImagesSettings
from modules.images.storage import ImageStorage


@asynccontextmanager
async def _open(context: ModuleContext) -> AsyncIterator[ImageService]:
    settings = context.get(ImagesSettings)
    storage = ImageStorage.open(settings, context.root, context.calls.before)
    service = ImageService(storage, settings, context.database)
    try:
        yield service
    finally:
        await service.decoder.close()


async def _check_storage(context: ModuleContext) -> None:
    await context.get(ImageService).storage.check()
    # A database that is away has a check of its own, and an owner is recorded once it is back.
    with suppress(DatabaseUnavailable):
        await context.get(ImageService).record_owner()


module = Module(
    owner="media-team",
    provides={Images: ImageAnswers},
    lifespan=_open,
    helpers={"decoding": "service", "imaging": "service", "turns": "service", "ranges": "router"},
    health_checks={"storage": _check_storage},
)
