"""Identify, measure and decode an image. These functions block; decoding.py runs this file in a child process."""

import io
import json
import re
import resource
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

# The accepted formats: the first bytes of a file, Pillow's name, and the media type
# (https://www.garykessler.net/library/file_sigs.html).
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG", "image/png"),
    (b"\xff\xd8\xff", "JPEG", "image/jpeg"),
    (b"GIF87a", "GIF", "image/gif"),
    (b"GIF89a", "GIF", "image/gif"),
)
_ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 exchange width and height
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A marker that is followed by a length, or the end marker (ITU-T T.81, table B.1). FF00 and restart markers are data.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_JPEG_SCAN, _JPEG_END = b"\xda", b"\xd9"
# A progressive JPEG has about ten. A scan of 75 bytes takes 50 ms to decode (measured with 49 million pixels): a file
# of 224 KiB kept a core busy for 26 s.
_MAX_JPEG_SCANS = 50
# The canvas, the previous frame, a copy and the image: four bytes a pixel each, and one byte of reserve.
_WEBP_BYTES_PER_PIXEL = 17
# Pillow warns at this limit and fails only at twice the limit. `max_pixels` is checked before decoding instead.
Image.MAX_IMAGE_PIXELS = None
# Pillow allocates pixels in blocks. glibc returns blocks above 32 MiB (mallopt(3)) to the system at once and keeps
# smaller ones: the process still held 380 MiB after three images of 7000x7000.
Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined]  # Pillow has no public function for it


class NotAnImage(Exception):
    """The bytes have none of the accepted formats."""


class BrokenImage(Exception):
    """The image cannot be decoded, or is too large to decode. The message says which."""


@dataclass(frozen=True)
class Picture:
    """The properties of an image. Sizes are in pixels, after the orientation is applied."""

    content_type: str
    width: int
    height: int
    thumbnail: bytes


def examine(data: bytes, *, max_pixels: int, thumbnail_pixels: int, max_memory_bytes: int = sys.maxsize) -> Picture:
    """Measure an image, decode it once, and make its thumbnail: re-encoded, upright, without metadata.

    A WebP that needs more than `max_memory_bytes` is refused before it is decoded.

    Raises NotAnImage and BrokenImage.
    """
    name, content_type = sniff(data)
    if name == "JPEG" and _has_too_many_scans(data):
        raise BrokenImage(f"has too many scans; at most {_MAX_JPEG_SCANS} are accepted")
    try:
        with Image.open(io.BytesIO(data), formats=[name]) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise BrokenImage(f"has {width * height:,} pixels; at most {max_pixels:,} are accepted")
            if name == "WEBP" and width * height * _WEBP_BYTES_PER_PIXEL > max_memory_bytes:
                most = max_memory_bytes // _WEBP_BYTES_PER_PIXEL
                raise BrokenImage(f"has {width * height:,} pixels; as a WebP at most {most:,} are accepted")
            image.draft("RGB", (thumbnail_pixels * 2, thumbnail_pixels * 2))  # JPEG: decode at a fraction of the size
            image.load()
            orientation = _orientation(image)
            if orientation in range(5, 9):
                width, height = height, width
            return Picture(content_type, width, height, _thumbnail(image, thumbnail_pixels, orientation))
    # The exceptions that Pillow's decoders raise for crafted or damaged files.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error) as error:
        raise BrokenImage("cannot be decoded: it is damaged or cut short") from error


def sniff(data: bytes) -> tuple[str, str]:
    """Return Pillow's name of the format and the media type, judged by the first bytes. Raises NotAnImage."""
    for signature, name, content_type in _SIGNATURES:
        if data.startswith(signature):
            return name, content_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP", "image/webp"
    raise NotAnImage


def _has_too_many_scans(data: bytes) -> bool:
    scans, position = 0, 2
    while scans <= _MAX_JPEG_SCANS and (marker := _JPEG_MARKER.search(data, position)) and marker[1] != _JPEG_END:
        scans += marker[1] == _JPEG_SCAN
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return scans > _MAX_JPEG_SCANS


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) if it cannot be read."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  # unreadable metadata is no reason to refuse an image
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _thumbnail(image: Image.Image, longest: int, orientation: int) -> bytes:
    """Return a WebP of at most `longest` pixels a side, without metadata. Shrinks first, to make the rest cheap."""
    if image.mode in {"1", "P"}:  # Pillow shrinks these modes by dropping pixels
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    # Images of 16 bits can be resized but not reduced first, which is Pillow's default to save time.
    image.thumbnail((longest, longest), reducing_gap=None if image.mode.startswith("I;16") else 2.0)
    if image.mode.startswith("I;16"):  # convert() alone would clip values above 255
        image = image.point(lambda value: value * (1 / 256)).convert("L")
    plain = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if orientation in _UPRIGHT:
        plain = plain.transpose(_UPRIGHT[orientation])
    plain.info.clear()
    output = io.BytesIO()
    plain.save(output, "WEBP", quality=80)
    return output.getvalue()


def _limit_memory(to_bytes: int) -> None:
    """Limit what this process may allocate beyond its current memory. Has an effect on Linux only."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + to_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _serve(max_memory_bytes: int) -> None:
    """Report readiness, then answer each image with JSON and a thumbnail until the pipe is closed."""
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(b"ready")
    answers.flush()
    while head := questions.read(24):
        size, max_pixels, thumbnail_pixels = struct.unpack(">QQQ", head)
        answer: dict[str, object] = {"is_last": False}
        thumbnail = b""
        try:
            found = examine(
                questions.read(size),
                max_pixels=max_pixels,
                thumbnail_pixels=thumbnail_pixels,
                max_memory_bytes=max_memory_bytes,
            )
        except NotAnImage:
            answer["unsupported"] = True
        except BrokenImage as error:
            answer["broken"] = str(error)
        except MemoryError:
            answer |= {
                "is_last": True,
                "broken": f"needs more than {max_memory_bytes >> 20} MiB of memory to be decoded",
            }
        else:
            answer |= {"content_type": found.content_type, "width": found.width, "height": found.height}
            thumbnail = found.thumbnail
        text = json.dumps(answer).encode()
        answers.write(struct.pack(">QQ", len(text), len(thumbnail)) + text + thumbnail)
        answers.flush()


if __name__ == "__main__":
    _limit_memory(int(sys.argv[1]))
    _serve(int(sys.argv[1]))
