"""The manifest of images."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from kernel import Module, ModuleContext
from kernel.database import DatabaseUnavailable
from modules.images.contract import Images
from modules.images.service import ImageService, ImagesImplementation
from modules.images.settings import ImagesSettings
from modules.images.storage import ImageStorage

# The longest time that the storage check waits for the database, which has a check of its own.
_RECORD_SECONDS = 0.25


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
    # If the database does not answer, its own check fails, and a later run records the owner.
    with suppress(DatabaseUnavailable, TimeoutError):
        async with asyncio.timeout(_RECORD_SECONDS):
            await context.get(ImageService).record_owner()


module = Module(
    owner="media-team",
    provides={Images: ImagesImplementation},
    lifespan=_open,
    helpers={"decoding": "service", "imaging": "service", "semaphore": "service", "ranges": "router"},
    health_checks={"storage": _check_storage},
)
