"""Judge a picture by its bytes alone. These functions block, so a child process with limits runs them (decoding.py)."""

import io
import json
import re
import resource
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

# The formats that are accepted: how their files begin (https://www.garykessler.net/library/file_sigs.html), and the
# media type under which they are served.
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG", "image/png"),
    (b"\xff\xd8\xff", "JPEG", "image/jpeg"),
    (b"GIF87a", "GIF", "image/gif"),
    (b"GIF89a", "GIF", "image/gif"),
)
_ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 lay the picture on its side
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A marker that has a length behind it, or the end (ITU-T T.81, table B.1); FF00 and the restarts are data.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_JPEG_SCAN, _JPEG_END = b"\xda", b"\xd9"
# A progressive JPEG has about ten. Each is a pass over all pixels that may cost the sender 75 bytes and us 50 ms
# (measured, 49 million pixels): a file of 224 KiB kept a core busy for 26 s.
_MAX_JPEG_SCANS = 50
# The canvas, the frame before it, a copy and the picture itself: four bytes a pixel each, and some room.
_WEBP_BYTES_PER_PIXEL = 17
# Pillow's own limit only warns, and stops twice that. Ours is a setting, checked before anything is decoded.
Image.MAX_IMAGE_PIXELS = None
# Pixels come in blocks. Those above 32 MiB, the most that glibc's mallopt(3) keeps for itself, go back to the system at
# once; smaller ones stayed with the process: 380 MiB after three pictures of 7000x7000.
Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined]  # it has no other way


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


def examine(data: bytes, *, max_pixels: int, thumbnail_pixels: int, max_memory_bytes: int = sys.maxsize) -> Picture:
    """Measure a picture, decode it once, and make its thumbnail: re-encoded, upright, without metadata.

    `max_memory_bytes` is what the process may use: a WebP that needs more is refused before it is decoded.

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


def _has_too_many_scans(data: bytes) -> bool:
    scans, position = 0, 2
    while scans <= _MAX_JPEG_SCANS and (marker := _JPEG_MARKER.search(data, position)) and marker[1] != _JPEG_END:
        scans += marker[1] == _JPEG_SCAN
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return scans > _MAX_JPEG_SCANS


def _orientation(image: Image.Image) -> int:
    """How the camera was held, 1 to 8. What cannot be read is upright: nobody loses a picture to its metadata."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  # EXIF is written by thousands of programs, and parsed by guessing
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _thumbnail(image: Image.Image, longest: int, orientation: int) -> bytes:
    """A WebP of at most `longest` pixels a side, without metadata. Shrinks first: what follows is then cheap."""
    if image.mode in {"1", "P"}:  # would be shrunk by leaving pixels out
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    # Sixteen bits can be resized but not reduced first, as Pillow does by default to save time.
    image.thumbnail((longest, longest), reducing_gap=None if image.mode.startswith("I;16") else 2.0)
    if image.mode.startswith("I;16"):  # converting would cut off what is brighter than 255
        image = image.point(lambda value: value * (1 / 256)).convert("L")
    plain = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if orientation in _UPRIGHT:
        plain = plain.transpose(_UPRIGHT[orientation])
    plain.info.clear()
    output = io.BytesIO()
    plain.save(output, "WEBP", quality=80)
    return output.getvalue()


def _limit_memory(to_bytes: int) -> None:
    """Let this process allocate so many bytes more than it has now. Only Linux enforces it."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + to_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _serve(max_memory_bytes: int) -> None:
    """Say that the process is ready, and answer with JSON and a thumbnail for each picture until the pipe is closed."""
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
