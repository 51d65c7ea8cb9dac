"""What happens to an upload, and what others may ask."""

import hashlib
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import NamedTuple

import anyio
import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from kernel import ContentTooLarge, Unavailable
from kernel.database import Database, after_commit, place_of
from kernel.ext.messaging import publish
from modules.images.contract import ImageDeleted, ImageInfo, Images
from modules.images.decoding import Decoder
from modules.images.repository import ImageRepository, StorageIdentityRepository
from modules.images.schemas import ImageOut, StoredImage
from modules.images.settings import ImagesSettings
from modules.images.storage import ImageStorage
from modules.images.turns import FairTurns, NoTurn

_log = structlog.get_logger("modules.images")


class ForeignStorage(Exception):
    """Another database may have images in this storage; says which, and what to do."""


class Swept(NamedTuple):
    """How many objects were looked at, how many of them no row names, their bytes, and how many were half-written."""

    objects: int
    orphans: int
    orphan_bytes: int
    unfinished: int


class ImageService:
    """Keeps pictures: bytes first, then the row, so that there is never a row without bytes."""

    def __init__(self, storage: ImageStorage, settings: ImagesSettings, database: Database) -> None:
        self.storage = storage
        self._settings = settings
        self._database = database
        self._is_recorded = False
        self.decoder = Decoder(settings)
        self._uploads = FairTurns(settings.max_uploads_in_memory, settings.max_waiting_uploads)
        self._decodes = FairTurns(settings.max_concurrent_decodes, settings.max_uploads_in_memory)

    async def keep(self, read: Callable[[], Awaitable[bytes]], caption: str, images: ImageRepository) -> ImageOut:
        """Store the upload that `read` returns. Raises a Problem if it is too large, no picture, or broken.

        It is read when its turn comes: those that wait are on disk, not in memory.
        """
        try:
            async with self._uploads.turn(images.caller.key):
                return await self._keep(await read(), caption, images)
        except NoTurn:
            raise Unavailable("Too many pictures are being looked at. Try again shortly.") from None

    async def _keep(self, data: bytes, caption: str, images: ImageRepository) -> ImageOut:
        if len(data) > self._settings.max_upload_bytes:
            raise ContentTooLarge(f"The file is too large: at most {self._settings.max_upload_bytes:,} bytes.")
        async with self._decodes.turn(images.caller.key):
            picture = await self.decoder.decode(data)
        content_key, thumbnail_key = self.storage.new_key(), self.storage.new_key()
        try:
            await self.storage.put(content_key, data)
            await self.storage.put(thumbnail_key, picture.thumbnail)
            return await images.add(
                caption=caption,
                content_type=picture.content_type,
                width=picture.width,
                height=picture.height,
                size_bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                content_key=content_key,
                thumbnail_key=thumbnail_key,
            )
        except Exception:
            await self._forget(content_key, thumbnail_key)
            raise

    async def discard(
        self, image: StoredImage, expected_version: frozenset[int] | None, images: ImageRepository
    ) -> bool:
        """Delete a picture: the row now, the bytes once that is committed, and tell the others.

        Raises StaleVersion and NotAllowed.
        """
        after_commit(images.session, lambda: self._forget(image.content_key, image.thumbnail_key))
        is_deleted = await images.delete(image.id, expected_version=expected_version)
        if is_deleted:
            await publish(ImageDeleted(image_id=image.id))
        return is_deleted

    async def record_owner(self) -> None:
        """Record in the storage that the images of this database are there, once in a process."""
        if not self._is_recorded:
            await self.storage.record_owner(*await self._owner())
            self._is_recorded = True

    async def become_only_owner(self) -> list[str]:
        """Record this database as the only one of the storage; return the places of those that were recorded."""
        own = await self._owner()
        await self.storage.record_owner(*own)
        others = [owner for owner in await self.storage.list_owners() if owner != own]
        for other in others:
            await self.storage.forget_owner(*other)
        return [place for _, place in others]

    async def _owner(self) -> tuple[str, str]:
        """Return this database's identity, which it gets at the first call, and its place."""
        placement = self._database.placement
        place = (
            f"{place_of(placement.url)} (schema {placement.schema})" if placement.schema else place_of(placement.url)
        )
        try:
            return await self._identity(), place
        except IntegrityError:  # another process has created it meanwhile
            return await self._identity(), place

    async def _identity(self) -> str:
        async with self._database.transaction() as session:
            return await StorageIdentityRepository(session).get_or_create()

    async def _check_owner(self) -> None:
        """Raise ForeignStorage unless this database is the only one that is recorded in the storage."""
        own, recorded = await self._owner(), await self.storage.list_owners()
        others = [place for identity, place in recorded if (identity, place) != own]
        if others:
            raise ForeignStorage(
                f"The storage of images also has images of another database: {', '.join(others)}. Here is {own[1]}. "
                "Give each deployment a storage of its own (IMAGES_STORAGE_URL); if this database has replaced the "
                "other one, record that: kernel images own"
            )
        if not recorded:
            raise ForeignStorage(
                f"The storage of images has no record of its database, which is {own[1]}. The readiness check of a "
                "running application writes it. If no other deployment uses this storage, do it now: kernel images own"
            )

    async def sweep(self, than: datetime, *, delete: bool) -> Swept:
        """Find the bytes from before that moment that no row names, and delete them if that is wanted.

        They are what is left of uploads that were killed or refused half way. Whoever uploads puts the bytes first, so
        the moment must be longer ago than an upload takes. Raises ForeignStorage if the storage may have bytes of
        another database.
        """
        await self._check_owner()
        objects, orphans, size = 0, 0, 0
        async for listed in self.storage.list_older(than):
            async with self._database.read() as session:
                named = await ImageRepository.of_all(session).named(listed)
            lost = listed.keys() - named
            objects, orphans = objects + len(listed), orphans + len(lost)
            size += sum(listed[key] for key in lost)
            if delete:
                await self.storage.delete(*lost)
        drop = partial(self.storage.drop_unfinished, than, delete=delete)
        return Swept(objects, orphans, size, await anyio.to_thread.run_sync(drop))

    async def _forget(self, *keys: str) -> None:
        """Delete bytes that no row names. Failing leaves them behind, which costs space and nothing else."""
        try:
            await self.storage.delete(*keys)
        except Exception as error:  # noqa: BLE001  # whatever the store says, the row decides
            _log.warning("bytes without a row were left behind", keys=keys, reason=repr(error))


class ImageAnswers(Images):
    """The contract's answers, in a session of their own."""

    def __init__(self, session: AsyncSession) -> None:
        self._images = ImageRepository.of_all(session)

    async def get(self, image_id: int) -> ImageInfo | None:
        return await self._images.get_by_id(image_id, into=ImageInfo)
