"""The object store: a directory, S3, GCS or Azure, selected by URL."""

import errno
import hashlib
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url
from starlette.exceptions import HTTPException

from kernel import NotFound, Unavailable
from modules.images.settings import ImagesSettings

if TYPE_CHECKING:
    from obstore import GetResult  # exists for type checkers only

_log = structlog.get_logger("modules.images")
_CHUNK_BYTES = 256 << 10
_LISTED_AT_ONCE = 1000
# The prefix of the records of databases whose images are in the store. Images are below two hexadecimal folders.
_OWNERS = "owners/"
# How obstore reports an error of the operating system. Only a local directory can be full.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# For a store over the network. By default, obstore retries for three minutes.
_CLIENT_OPTIONS: Any = {"timeout": "20s", "connect_timeout": "5s"}
_RETRIES: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}


Before = Callable[[str], Awaitable[None]]


async def _nothing_before(_call: str) -> None:
    """Do nothing: outside an application there are no transactions to check."""


class ImageStorage:
    """Bytes by key. Raises Unavailable if the store does not answer, and HTTPException (507) if it is full."""

    def __init__(self, store: ObjectStore, before: Before | None = None) -> None:
        """Call `before` ahead of each call: the store may be remote, and no transaction should wait for it."""
        self._store = store
        self._before = before or _nothing_before

    @classmethod
    def open(cls, settings: ImagesSettings, root: Path, before: Before | None = None) -> "ImageStorage":
        """Open the store that the settings name. A missing directory is created."""
        url = settings.storage_url
        if "://" not in url or url.startswith("file://"):
            return cls(LocalStore(root / url.removeprefix("file:").removeprefix("//"), mkdir=True), before)
        options: Any = {name: secret.get_secret_value() for name, secret in settings.storage_options.items()}
        # Without TLS only if the settings name a plain endpoint, as for a local MinIO. obstore also has an option of
        # the store for this, but panics on it.
        is_plain = any(value.startswith("http://") for name, value in options.items() if "endpoint" in name)
        client_options = _CLIENT_OPTIONS | {"allow_http": is_plain}
        return cls(from_url(url, config=options, client_options=client_options, retry_config=_RETRIES), before)

    @staticmethod
    def new_key() -> str:
        """Return a random name, spread over many folders."""
        name = uuid.uuid4().hex
        return f"{name[:2]}/{name[2:4]}/{name}"

    async def put(self, key: str, data: bytes) -> None:
        """Store `data` under `key`, completely or not at all."""
        await self._before("PUT to the storage of images")
        try:
            await obstore.put_async(self._store, key, data)
        except (BaseError, OSError) as error:
            raise _unavailable("put", error) from error

    async def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Return the bytes from `start` up to but not including `end`, in chunks. Raises NotFound before the first."""
        result = await self._get(key, {"range": (start, end)})
        return (bytes(part) async for part in result.stream(min_chunk_size=_CHUNK_BYTES))

    async def read_all(self, key: str) -> bytes:
        """Return all bytes of a small object. Raises NotFound."""
        return bytes(await (await self._get(key, {})).bytes_async())

    async def _get(self, key: str, options: Any) -> "GetResult":
        await self._before("GET from the storage of images")
        try:
            return await obstore.get_async(self._store, key, options=options)
        except FileNotFoundError as error:
            _log.exception("image bytes missing", key=key)
            raise NotFound("The bytes of this image are missing in the storage.") from error
        except (BaseError, OSError) as error:
            raise _unavailable("get", error) from error

    async def delete(self, *keys: str) -> None:
        """Delete the objects with these keys. Missing ones are ignored."""
        await self._before("DELETE from the storage of images")
        for key in keys:
            try:
                await obstore.delete_async(self._store, key)
            except FileNotFoundError:
                continue
            except (BaseError, OSError) as error:
                raise _unavailable("delete", error) from error

    async def list_older(self, before: datetime) -> AsyncIterator[dict[str, int]]:
        """Yield the keys of objects that were stored before that time, with their sizes in bytes, in batches."""
        # Not with `async for`: obstore 0.11 then aborts the process when it ends.
        parts = iter(obstore.list(self._store, chunk_size=_LISTED_AT_ONCE))
        while (part := await anyio.to_thread.run_sync(next, parts, None)) is not None:
            yield {
                one["path"]: one["size"]
                for one in part
                if one["last_modified"] < before and not one["path"].startswith(_OWNERS)
            }

    async def record_owner(self, identity: str, place: str) -> None:
        """Record that a database has images here: its identity, and its place for people to read."""
        await self.put(_owner_key(identity, place), place.encode())

    async def forget_owner(self, identity: str, place: str) -> None:
        """Remove such a record."""
        await self.delete(_owner_key(identity, place))

    async def list_owners(self) -> list[tuple[str, str]]:
        """Return the identity and the place of every recorded database."""
        found = await anyio.to_thread.run_sync(lambda: list(obstore.list(self._store, _OWNERS)))
        keys = [one["path"] for part in found for one in part]
        return [
            (key.removeprefix(_OWNERS).partition("-")[0], (await self.read_all(key)).decode()) for key in sorted(keys)
        ]

    def drop_unfinished(self, before: datetime, *, delete: bool) -> int:
        """Return how many half-written files are older than that time. The store itself does not list them."""
        if not isinstance(self._store, LocalStore) or self._store.prefix is None:
            return 0
        found = [
            path
            for path in Path(self._store.prefix).rglob("*#*")
            if datetime.fromtimestamp(path.stat().st_mtime, UTC) < before
        ]
        for path in found if delete else ():
            path.unlink(missing_ok=True)
        return len(found)

    async def check(self) -> None:
        """Request an object that need not exist. Raises if the store does not work."""
        try:
            await obstore.head_async(self._store, "health")
        except FileNotFoundError:
            return


def _owner_key(identity: str, place: str) -> str:
    """Return the key of a record. It includes the place, because a copied database keeps its identity."""
    return f"{_OWNERS}{identity}-{hashlib.sha256(place.encode()).hexdigest()[:16]}"


def _unavailable(operation: str, error: Exception) -> HTTPException:
    _log.error("image storage unavailable", operation=operation, reason=type(error).__name__, exc_info=error)
    if (found := _OS_ERROR.search(str(error))) is not None and int(found[1]) in _FULL:
        return HTTPException(507, "The storage of images is full.")
    return Unavailable("The storage of images is not available. Try again shortly.")
