"""Store, delete and sweep images, and implement the contract."""

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
from modules.images.semaphore import RoundRobinSemaphore, TooManyWaiting
from modules.images.settings import ImagesSettings
from modules.images.storage import ImageStorage

_log = structlog.get_logger("modules.images")


class ForeignStorage(Exception):
    """Another database may have images in this storage. The message names it and the remedy."""


class SweepResult(NamedTuple):
    """The numbers of objects examined, of objects without a row and their bytes, and of half-written files."""

    objects: int
    orphans: int
    orphan_bytes: int
    unfinished: int


class ImageService:
    """Stores images: the bytes first and then the row, so that no row lacks its bytes."""

    def __init__(self, storage: ImageStorage, settings: ImagesSettings, database: Database) -> None:
        self.storage = storage
        self._settings = settings
        self._database = database
        self._is_recorded = False
        self.decoder = Decoder(settings)
        self._uploads = RoundRobinSemaphore(settings.max_uploads_in_memory, settings.max_waiting_uploads)
        self._decodes = RoundRobinSemaphore(settings.max_concurrent_decodes, settings.max_uploads_in_memory)

    async def store(self, read: Callable[[], Awaitable[bytes]], caption: str, images: ImageRepository) -> ImageOut:
        """Store the upload that `read` returns. Raises a Problem if it is too large, not an image, or broken.

        An upload is read when it gets a slot. Waiting uploads are on disk, not in memory.
        """
        try:
            async with self._uploads.slot(images.caller.key):
                return await self._store(await read(), caption, images)
        except TooManyWaiting:
            raise Unavailable("Too many uploads are being processed. Try again shortly.") from None

    async def _store(self, data: bytes, caption: str, images: ImageRepository) -> ImageOut:
        if len(data) > self._settings.max_upload_bytes:
            most = self._settings.max_upload_bytes
            raise ContentTooLarge(f"The file has {len(data):,} bytes; at most {most:,} are accepted.")
        async with self._decodes.slot(images.caller.key):
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
            await self._delete_bytes(content_key, thumbnail_key)
            raise

    async def delete(
        self, image: StoredImage, expected_version: frozenset[int] | None, images: ImageRepository
    ) -> bool:
        """Delete the row now and the bytes after the commit, and publish ImageDeleted.

        Raises StaleVersion and NotAllowed.
        """
        after_commit(images.session, lambda: self._delete_bytes(image.content_key, image.thumbnail_key))
        is_deleted = await images.delete(image.id, expected_version=expected_version)
        if is_deleted:
            await publish(ImageDeleted(image_id=image.id))
        return is_deleted

    async def record_owner(self) -> None:
        """Record this database in the storage as an owner, once per process."""
        if not self._is_recorded:
            await self.storage.record_owner(*await self._owner())
            self._is_recorded = True

    async def become_only_owner(self) -> list[str]:
        """Record this database as the only owner of the storage; return the places of the owners that were removed."""
        own = await self._owner()
        await self.storage.record_owner(*own)
        others = [owner for owner in await self.storage.list_owners() if owner != own]
        for other in others:
            await self.storage.forget_owner(*other)
        return [place for _, place in others]

    async def _owner(self) -> tuple[str, str]:
        """Return this database's identity, created at the first call, and its place."""
        placement = self._database.placement
        place = (
            f"{place_of(placement.url)} (schema {placement.schema})" if placement.schema else place_of(placement.url)
        )
        try:
            return await self._identity(), place
        except IntegrityError:  # another process has just created it
            return await self._identity(), place

    async def _identity(self) -> str:
        async with self._database.transaction() as session:
            return await StorageIdentityRepository(session).get_or_create()

    async def _check_owner(self) -> None:
        """Raise ForeignStorage unless this database is the only recorded owner of the storage."""
        own, recorded = await self._owner(), await self.storage.list_owners()
        others = [place for identity, place in recorded if (identity, place) != own]
        if others:
            raise ForeignStorage(
                f"The storage of images also has images of another database: {', '.join(others)}. This database is "
                f"{own[1]}. Give each deployment its own storage (IMAGES_STORAGE_URL). If this database has replaced "
                "the other one, run: kernel images own"
            )
        if not recorded:
            raise ForeignStorage(
                f"The storage of images has no record of its database, which is {own[1]}. The readiness check of a "
                "running application writes it. If no other deployment uses this storage, run: kernel images own"
            )

    async def sweep(self, before: datetime, *, delete: bool) -> SweepResult:
        """Count the objects from before that time that have no row, and delete them if `delete` is set.

        They are the remains of interrupted uploads. An upload stores its bytes before its row, so `before` must be
        longer ago than an upload takes. Raises ForeignStorage if the storage may have objects of another database.
        """
        await self._check_owner()
        objects, orphans, size = 0, 0, 0
        async for listed in self.storage.list_older(before):
            async with self._database.read() as session:
                referenced = await ImageRepository.of_all(session).referenced(listed)
            unreferenced = listed.keys() - referenced
            objects, orphans = objects + len(listed), orphans + len(unreferenced)
            size += sum(listed[key] for key in unreferenced)
            if delete:
                await self.storage.delete(*unreferenced)
        drop = partial(self.storage.drop_unfinished, before, delete=delete)
        return SweepResult(objects, orphans, size, await anyio.to_thread.run_sync(drop))

    async def _delete_bytes(self, *keys: str) -> None:
        """Delete objects without a row. A failure is only logged: `kernel images sweep` deletes them later."""
        try:
            await self.storage.delete(*keys)
        except Exception as error:  # noqa: BLE001  # the objects cost space but do no harm
            _log.warning("objects without a row not deleted", keys=keys, reason=repr(error))


class ImagesImplementation(Images):
    """Implements the contract in a session of its own."""

    def __init__(self, session: AsyncSession) -> None:
        self._images = ImageRepository.of_all(session)

    async def get(self, image_id: int) -> ImageInfo | None:
        return await self._images.get_by_id(image_id, into=ImageInfo)
