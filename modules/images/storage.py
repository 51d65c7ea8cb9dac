"""The object store: a directory, S3, GCS or Azure by URL, the same code for all."""

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

from kernel import InsufficientStorage, NotFound, Unavailable
from modules.images.settings import ImagesSettings

if TYPE_CHECKING:
    from obstore import GetResult  # exists for type checkers only

_log = structlog.get_logger("modules.images")
_CHUNK_BYTES = 256 << 10
_LISTED_AT_ONCE = 1000
# Below it stands an object for each database whose images are in the store; images have two hexadecimal folders.
_OWNERS = "owners/"
# What obstore says of the operating system's errors; a store over the network has room as long as it is paid for.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Of a store over the network; obstore itself would try for three minutes.
_CLIENT_OPTIONS: Any = {"timeout": "20s", "connect_timeout": "5s"}
_RETRIES: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}


Before = Callable[[str], Awaitable[None]]


async def _nothing_before(_call: str) -> None:
    """Outside of an application there are no transactions."""


class ImageStorage:
    """Bytes by key. Raises Unavailable where the store does not answer, and InsufficientStorage where it is full."""

    def __init__(self, store: ObjectStore, before: Before | None = None) -> None:
        """Tell `before` of each call: the store may be another system, which no transaction should wait for."""
        self._store = store
        self._before = before or _nothing_before

    @classmethod
    def open(cls, settings: ImagesSettings, root: Path, before: Before | None = None) -> "ImageStorage":
        """The store that the settings name; a directory is made if need be."""
        url = settings.storage_url
        if "://" not in url or url.startswith("file://"):
            return cls(LocalStore(root / url.removeprefix("file:").removeprefix("//"), mkdir=True), before)
        options: Any = {name: secret.get_secret_value() for name, secret in settings.storage_options.items()}
        # Without TLS only where the settings themselves say so, as for a MinIO next door. obstore has this as an
        # option of the store, too, but panics on it.
        is_plain = any(value.startswith("http://") for name, value in options.items() if "endpoint" in name)
        client_options = _CLIENT_OPTIONS | {"allow_http": is_plain}
        return cls(from_url(url, config=options, client_options=client_options, retry_config=_RETRIES), before)

    @staticmethod
    def new_key() -> str:
        """A name that nobody can guess and that spreads over many folders."""
        name = uuid.uuid4().hex
        return f"{name[:2]}/{name[2:4]}/{name}"

    async def put(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`, whole or not at all."""
        await self._before("PUT to the storage of images")
        try:
            await obstore.put_async(self._store, key, data)
        except (BaseError, OSError) as error:
            raise _unavailable("put", error) from error

    async def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from `start` up to but not including `end`, in pieces. Raises NotFound before the first."""
        result = await self._get(key, {"range": (start, end)})
        return (bytes(part) async for part in result.stream(min_chunk_size=_CHUNK_BYTES))

    async def read_all(self, key: str) -> bytes:
        """All bytes at once, of something small. Raises NotFound."""
        return bytes(await (await self._get(key, {})).bytes_async())

    async def _get(self, key: str, options: Any) -> "GetResult":
        await self._before("GET from the storage of images")
        try:
            return await obstore.get_async(self._store, key, options=options)
        except FileNotFoundError as error:
            _log.exception("an image has lost its bytes", key=key)
            raise NotFound("The bytes of this image are gone.") from error
        except (BaseError, OSError) as error:
            raise _unavailable("get", error) from error

    async def delete(self, *keys: str) -> None:
        """Forget what is kept under `keys`."""
        await self._before("DELETE from the storage of images")
        for key in keys:
            try:
                await obstore.delete_async(self._store, key)
            except FileNotFoundError:
                continue
            except (BaseError, OSError) as error:
                raise _unavailable("delete", error) from error

    async def list_older(self, than: datetime) -> AsyncIterator[dict[str, int]]:
        """The keys of what was put before that moment, with their sizes in bytes, many at a time."""
        # Not with `async for`: obstore 0.11 then breaks off the process at its end.
        parts = iter(obstore.list(self._store, chunk_size=_LISTED_AT_ONCE))
        while (part := await anyio.to_thread.run_sync(next, parts, None)) is not None:
            yield {
                one["path"]: one["size"]
                for one in part
                if one["last_modified"] < than and not one["path"].startswith(_OWNERS)
            }

    async def record_owner(self, identity: str, place: str) -> None:
        """Record that the images of a database are kept here: its random name, and where it is, for people to read."""
        await self.put(_owner_key(identity, place), place.encode())

    async def forget_owner(self, identity: str, place: str) -> None:
        """Remove such a record."""
        await self.delete(_owner_key(identity, place))

    async def list_owners(self) -> list[tuple[str, str]]:
        """Return the identity and the place of every database that is recorded here."""
        found = await anyio.to_thread.run_sync(lambda: list(obstore.list(self._store, _OWNERS)))
        keys = [one["path"] for part in found for one in part]
        return [
            (key.removeprefix(_OWNERS).partition("-")[0], (await self.read_all(key)).decode()) for key in sorted(keys)
        ]

    def drop_unfinished(self, than: datetime, *, delete: bool) -> int:
        """How many files a killed process left before that moment while it wrote them; the store itself hides them."""
        if not isinstance(self._store, LocalStore) or self._store.prefix is None:
            return 0
        found = [
            path
            for path in Path(self._store.prefix).rglob("*#*")
            if datetime.fromtimestamp(path.stat().st_mtime, UTC) < than
        ]
        for path in found if delete else ():
            path.unlink(missing_ok=True)
        return len(found)

    async def check(self) -> None:
        """Ask the store for something that need not exist. Raises what is wrong with it."""
        try:
            await obstore.head_async(self._store, "health")
        except FileNotFoundError:
            return


def _owner_key(identity: str, place: str) -> str:
    """Return the key of a record: a copy of a database has its identity, but another place."""
    return f"{_OWNERS}{identity}-{hashlib.sha256(place.encode()).hexdigest()[:16]}"


def _unavailable(operation: str, error: Exception) -> Unavailable | InsufficientStorage:
    _log.error("storage unavailable", operation=operation, reason=type(error).__name__, exc_info=error)
    if (found := _OS_ERROR.search(str(error))) is not None and int(found[1]) in _FULL:
        return InsufficientStorage("The storage of images is full.")
    return Unavailable("The storage of images is not available. Try again shortly.")
