"""Pictures that attack the decoder, and unusual ones that must get a correct thumbnail."""

import io
import random
import struct
import time
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from modules.images.imaging import BrokenImage, NotAnImage, Picture, examine
from tests.modules.images.pictures import FORMATS, picture


def look(data: bytes) -> Picture:
    return examine(data, max_pixels=10_000_000, thumbnail_pixels=32)


def shown(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(look(data).thumbnail)).convert("RGB")


def encoded(image: Image.Image, name: str, **options: object) -> bytes:
    output = io.BytesIO()
    image.save(output, name, **options)
    return output.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"".join((b"\x89PNG\r\n\x1a\n", header, *extra, pixels, chunk(b"IEND", b"")))


def webp_animation(width: int, height: int) -> bytes:
    """Return an animation: a canvas of any size with one frame of a single pixel."""

    def riff(kind: bytes, data: bytes) -> bytes:
        return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    frame = bytes(16) + encoded(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    body = b"WEBP" + riff(b"VP8X", b"\x02\0\0\0" + size) + riff(b"ANIM", bytes(6)) + riff(b"ANMF", frame)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif_with_a_frame_beyond_its_canvas() -> bytes:
    data = bytearray(encoded(Image.new("P", (4, 4)), "GIF"))
    frame = data.index(b",\0\0\0\0\4\0\4\0")
    data[frame + 5 : frame + 9] = struct.pack("<HH", 60_000, 60_000)
    return bytes(data)


@pytest.mark.alone
@pytest.mark.parametrize("stuffing", [b"", b"\xff\x01", b"\xff\xff\xff", b"\xff\xd0", b"\xff\xfe\x00\x04ab"])
def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(stuffing: bytes) -> None:
    data = encoded(Image.new("L", (3000, 3000), 128), "JPEG", progressive=True)
    scan = stuffing + data[data.rindex(b"\xff\xda") : -2]
    started_at = time.perf_counter()
    with pytest.raises(BrokenImage, match="too many scans"):
        look(data[:-2] + scan * 1000 + data[-2:])
    assert time.perf_counter() - started_at < 1


def test_an_ordinary_progressive_jpeg_is_accepted() -> None:
    assert look(picture("JPEG", progressive=True)).width == 64


def test_bytes_that_only_look_like_a_scan_are_not_counted() -> None:
    in_a_comment = picture("JPEG", comment=b"\xff\xda" * 1000)
    behind_the_end = picture("JPEG") + b"\0\2" + b"\xff\xda\0\2" * 1000
    assert look(in_a_comment).width == look(behind_the_end).width == 64


@pytest.mark.parametrize(
    "make",
    [
        lambda: png(2**31 - 1, 2**31 - 1),
        lambda: webp_animation(65_535, 65_535),
        lambda: webp_animation(1 << 24, 255),
        gif_with_a_frame_beyond_its_canvas,
    ],
)
def test_every_format_is_measured_before_it_is_decoded(make: Callable[[], bytes]) -> None:
    with pytest.raises(BrokenImage, match="pixels"):
        look(make())


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_a_picture_without_pixels_is_broken(size: tuple[int, int]) -> None:
    with pytest.raises(BrokenImage):
        look(png(*size))


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_metadata_that_expands_enormously_is_refused(kind: bytes) -> None:
    with pytest.raises(BrokenImage):
        look(png(5, 5, chunk(kind, b"name\0\0" + zlib.compress(bytes(20_000_000)))))


@pytest.mark.parametrize("name", FORMATS)
def test_the_signature_of_another_format_is_refused(name: str) -> None:
    signatures = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\0\0\0\0WEBP")
    for signature in signatures:
        if not picture(name).startswith(signature[:3]):
            with pytest.raises(BrokenImage):
                look(signature + picture(name))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow warns about the metadata.
def test_every_damage_raises_the_same_error() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = [picture(name, (40, 30)) for name in FORMATS]
    seeds += [picture("JPEG", progressive=True), picture("WEBP", exif=exif), picture("PNG", mode="P", exif=exif)]
    chance = random.Random(7)
    for _ in range(1000):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(min(len(data), chance.choice((120, 10_000))))] = chance.randrange(256)
        try:
            look(bytes(data))
        except (BrokenImage, NotAnImage):
            continue


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_sound_picture_is_not_refused_for_its_damaged_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8769] = 6, "a camera", {0x9003: "2020:01:01 00:00:00"}
    data = picture("JPEG", (40, 20), exif=exif)
    start = data.index(b"Exif\0\0") + 6
    # The length of the segment, without its own header.
    length = int.from_bytes(data[start - 8 : start - 6], "big") - 8
    chance = random.Random(7)
    for _ in range(1000):
        damaged = bytearray(data)
        for _ in range(chance.randint(1, 6)):
            damaged[start + chance.randrange(length)] = chance.randrange(256)
        seen = look(bytes(damaged))
        assert {seen.width, seen.height} == {20, 40}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("exif", [b"", b"nonsense", b"MM\0*", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"])
def test_invalid_metadata_is_ignored(name: str, exif: bytes) -> None:
    assert look(picture(name, exif=b"Exif\0\0" + exif)).width == 64


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_gives_an_upright_thumbnail(orientation: int) -> None:
    upright = Image.new("RGB", (32, 16), "white")
    upright.paste("red", (0, 0, 16, 8))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # The rotation by the camera: Image.Transpose by orientation.
    taken = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    thumbnail = shown(encoded(taken, "PNG", exif=exif))
    assert thumbnail.size == (32, 16)
    corners = [thumbnail.getpixel(at) for at in ((4, 3), (28, 3), (4, 12), (28, 12))]
    assert [green < 128 for _, green, _ in corners] == [True, False, False, False]  # type: ignore[misc]  # RGB tuples


def test_sixteen_bits_of_grey_stay_grey() -> None:
    grey = shown(encoded(Image.new("I;16", (64, 64), 30_000), "PNG")).getpixel((5, 5))
    assert all(110 < value < 125 for value in grey)  # type: ignore[union-attr]  # a tuple for RGB


@pytest.mark.parametrize(("name", "mode"), [("PNG", "1"), ("PNG", "P"), ("GIF", "P")])
def test_a_palette_image_is_scaled_with_mixed_colours(name: str, mode: str) -> None:
    stripes = Image.new("L", (320, 320))
    for x in range(0, 320, 2):
        stripes.paste(255, (x, 0, x + 1, 320))
    red, _, _ = shown(encoded(stripes.convert(mode), name)).getpixel((9, 9))  # type: ignore[misc]  # a tuple for RGB
    assert 90 < red < 165


def test_transparent_pixels_stay_transparent() -> None:
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    palette = encoded(Image.new("P", (40, 40)), "GIF", transparency=0)
    for data in (encoded(clear, "PNG"), encoded(clear, "WEBP"), palette):
        thumbnail = Image.open(io.BytesIO(look(data).thumbnail))
        assert thumbnail.getchannel("A").getextrema() == (0, 0)
