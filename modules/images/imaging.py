"""What a picture is, judged by its bytes alone. Pure functions; they block, so call them in a thread."""

import io
import struct
from dataclasses import dataclass

from PIL import Image, ImageOps

# The formats that are accepted: how their files begin (https://www.garykessler.net/library/file_sigs.html), and the
# media type under which they are served.
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG", "image/png"),
    (b"\xff\xd8\xff", "JPEG", "image/jpeg"),
    (b"GIF87a", "GIF", "image/gif"),
    (b"GIF89a", "GIF", "image/gif"),
)
THUMBNAIL_TYPE = "image/webp"
_ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 lay the picture on its side
# Pillow's own limit only warns, and stops twice that. Ours is a setting, checked before anything is decoded.
Image.MAX_IMAGE_PIXELS = None


class NotAnImage(Exception):
    """The bytes are none of the accepted formats."""


class BrokenImage(Exception):
    """The bytes begin like a picture but cannot be read as one; or it has too many pixels. Says which."""


@dataclass(frozen=True)
class Picture:
    """What an upload turned out to be. Sizes are in pixels, as the picture is shown."""

    content_type: str
    width: int
    height: int
    thumbnail: bytes


def examine(data: bytes, *, max_pixels: int, thumbnail_pixels: int) -> Picture:
    """Measure a picture, decode it once, and make its thumbnail: re-encoded, upright, without metadata.

    Raises NotAnImage and BrokenImage.
    """
    name, content_type = sniff(data)
    try:
        with Image.open(io.BytesIO(data), formats=[name]) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise BrokenImage(f"has {width * height:,} pixels; at most {max_pixels:,} are accepted")
            if image.getexif().get(_ORIENTATION, 1) in range(5, 9):
                width, height = height, width
            image.draft("RGB", (thumbnail_pixels * 2, thumbnail_pixels * 2))  # JPEG: decode at a fraction of the size
            image.load()
            upright = ImageOps.exif_transpose(image)
            upright.thumbnail((thumbnail_pixels, thumbnail_pixels))
            return Picture(content_type, width, height, _encode(upright))
    # Whatever a decoder may say of bytes that somebody made up.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error) as error:
        raise BrokenImage("cannot be decoded: it is damaged or cut short") from error


def sniff(data: bytes) -> tuple[str, str]:
    """The decoder's name and the media type, by how the bytes begin. Raises NotAnImage."""
    for signature, name, content_type in _SIGNATURES:
        if data.startswith(signature):
            return name, content_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP", "image/webp"
    raise NotAnImage


def _encode(image: Image.Image) -> bytes:
    plain = image.convert("RGBA" if image.has_transparency_data else "RGB")
    plain.info.clear()
    output = io.BytesIO()
    plain.save(output, "WEBP", quality=80)
    return output.getvalue()
