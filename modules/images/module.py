"""The manifest of images."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kernel import Module, ModuleContext
from modules.images.contract import Images
from modules.images.service import ImageAnswers, ImageService
from modules.images.settings import ImagesSettings
from modules.images.storage import ImageStorage


@asynccontextmanager
async def _open(context: ModuleContext) -> AsyncIterator[ImageService]:
    assert isinstance(context.settings, ImagesSettings)  # noqa: S101  # for the type checker: it is in settings.py
    service = ImageService(ImageStorage.open(context.settings, context.root, context.calls.before), context.settings)
    try:
        yield service
    finally:
        await service.decoder.close()


async def _check_storage(context: ModuleContext) -> None:
    service: ImageService = context.state
    await service.storage.check()


module = Module(
    owner="media-team",
    provides={Images: ImageAnswers},
    lifespan=_open,
    helpers={"decoding": "service", "imaging": "service", "turns": "service", "ranges": "router"},
    health_checks={"storage": _check_storage},
)
