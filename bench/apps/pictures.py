"""Uploads: the project's own decoder in a thread, and two files."""

import asyncio
import hashlib
import uuid
from dataclasses import dataclass
from pathlib import Path

from modules.images.imaging import examine
from modules.images.settings import ImagesSettings

_MAX_PIXELS: int = ImagesSettings.model_fields["max_pixels"].default
_THUMBNAIL_PIXELS: int = ImagesSettings.model_fields["thumbnail_pixels"].default


@dataclass(frozen=True)
class Kept:
    """The result of an upload: the columns of its row, and the small picture."""

    columns: dict[str, str | int]
    thumbnail: bytes


async def picture_of(data: bytes) -> Kept:
    """Decode an upload in a thread, so that the event loop can run."""
    picture = await asyncio.to_thread(examine, data, max_pixels=_MAX_PIXELS, thumbnail_pixels=_THUMBNAIL_PIXELS)
    columns: dict[str, str | int] = {
        "content_type": picture.content_type,
        "width": picture.width,
        "height": picture.height,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return Kept(columns, picture.thumbnail)


async def keep_files(folder: Path, data: bytes, thumbnail: bytes) -> dict[str, str]:
    """Write both files in one thread, and return their names in the folder as columns."""
    content_key, thumbnail_key = _new_key(), _new_key()

    def write() -> None:
        for key, content in ((content_key, data), (thumbnail_key, thumbnail)):
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    await asyncio.to_thread(write)
    return {"content_key": content_key, "thumbnail_key": thumbnail_key}


def _new_key() -> str:
    name = uuid.uuid4().hex
    return f"{name[:2]}/{name[2:4]}/{name}"
