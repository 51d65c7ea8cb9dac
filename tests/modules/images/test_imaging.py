"""The format and size of a picture from its bytes, and the part of a file that a range names."""

import io
import struct
import time
import zlib

import pytest
from PIL import Image

from modules.images.imaging import BrokenImage, NotAnImage, Picture, examine
from modules.images.ranges import Span, Unsatisfiable, requested
from tests.modules.images.pictures import FORMATS, picture


def look(data: bytes, max_pixels: int = 1_000_000) -> Picture:
    return examine(data, max_pixels=max_pixels, thumbnail_pixels=32)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_accepted_formats_are_measured_and_get_a_small_webp(name: str, mode: str) -> None:
    seen = look(picture(name, mode=mode))
    assert (seen.content_type, seen.width, seen.height) == (FORMATS[name], 64, 48)
    with Image.open(io.BytesIO(seen.thumbnail)) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("WEBP", (32, 24))


@pytest.mark.parametrize(
    ("name", "mode"), [("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1"), ("JPEG", "CMYK"), ("GIF", "P")]
)
def test_unusual_modes_are_accepted(name: str, mode: str) -> None:
    assert look(picture(name, mode=mode)).width == 64


def test_an_animation_is_shown_by_its_first_frame() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    output = io.BytesIO()
    frames[0].save(output, "GIF", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(look(output.getvalue()).thumbnail)) as thumbnail:
        red, _, blue = thumbnail.convert("RGB").getpixel((5, 5))  # type: ignore[misc]  # a tuple for RGB
    assert red > 200
    assert blue < 50


def test_a_camera_on_its_side_gives_an_upright_thumbnail_without_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    seen = look(picture("JPEG", (64, 32), exif=exif))
    assert (seen.width, seen.height) == (32, 64)
    with Image.open(io.BytesIO(seen.thumbnail)) as thumbnail:
        assert thumbnail.size == (16, 32)
        assert not thumbnail.getexif()


def test_a_small_picture_is_not_enlarged() -> None:
    with Image.open(io.BytesIO(look(picture(size=(5, 4))).thumbnail)) as thumbnail:
        assert thumbnail.size == (5, 4)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"%PDF-1.7",
        b"RIFF\x00\x00\x00\x00WAVE",
        picture("BMP"),
        picture("TIFF"),
    ],
)
def test_other_files_are_no_images(data: bytes) -> None:
    with pytest.raises(NotAnImage):
        look(data)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_picture_is_refused(name: str, part: float) -> None:
    data = picture(name)
    with pytest.raises(BrokenImage):
        look(data[: max(12, int(len(data) * part))])


@pytest.mark.alone
def test_a_bomb_is_refused_by_its_header_before_it_is_decoded() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    idat = b"IDAT" + zlib.compress(b"\0" * 100_000)
    bomb += struct.pack(">I", len(idat) - 4) + idat + struct.pack(">I", zlib.crc32(idat))
    started_at = time.perf_counter()
    with pytest.raises(BrokenImage, match="3,600,000,000 pixels"):
        look(bomb)
    assert time.perf_counter() - started_at < 0.5


@pytest.mark.parametrize(
    ("header", "span"),
    [
        (None, None),
        ("bytes=0-9", Span(0, 10)),
        ("bytes=10-19", Span(10, 20)),
        ("bytes=90-", Span(90, 100)),
        ("bytes=90-1000", Span(90, 100)),
        ("bytes=-10", Span(90, 100)),
        ("bytes=-1000", Span(0, 100)),
        ("bytes=0-0", Span(0, 1)),
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=0-1,5-6", None),
        ("items=0-1", None),
        ("bytes=" + "9" * 30 + "-", None),
    ],
)
def test_ranges_follow_the_rfc(header: str | None, span: Span | None) -> None:
    assert requested(header, 100) == span


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_behind_the_end_cannot_be_satisfied(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        requested(header, 100)
