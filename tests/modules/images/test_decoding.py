"""Decoding in child processes limits the cost of a picture, even if its file is malformed (OWASP API4:2023)."""

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from fastapi import HTTPException
from PIL import Image
from structlog.testing import capture_logs

from kernel import Unavailable, Unprocessable
from modules.images.decoding import Decoder
from modules.images.settings import ImagesSettings
from tests.modules.images.pictures import flat_png, flat_webp, picture, swelling_webp

pytestmark = pytest.mark.integration

SIDE = 7000
# The memory of a child without a picture: the interpreter, Pillow and its libraries.
_CHILD_BYTES = 40 << 20


def encoded(mode: str, name: str, **options: object) -> bytes:
    output = io.BytesIO()
    Image.new(mode, (SIDE, SIDE)).save(output, name, **options)
    return output.getvalue()


@pytest.fixture
async def decoder() -> AsyncIterator[Decoder]:
    async for one in opened():
        yield one


async def opened(**settings: float) -> AsyncIterator[Decoder]:
    decoder = Decoder(ImagesSettings(**settings))  # type: ignore[arg-type]  # numbers all of them
    try:
        yield decoder
    finally:
        await decoder.close()


def children() -> list[int]:
    """Return the child processes that decode; other tests may have left servers running."""
    here = os.getpid()
    found = Path(f"/proc/{here}/task/{here}/children").read_text().split()
    return [int(pid) for pid in found if b"imaging.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def memory_bytes(pid: int) -> int:
    """Return the most memory that a process has used since its start (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [peak] = [int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")]
    return peak


async def refusal(decoder: Decoder, data: bytes) -> str:
    with pytest.raises(Unprocessable) as raised:
        await decoder.decode(data)
    [error] = raised.value.errors
    return error.message


LARGE: dict[str, Callable[[], bytes]] = {
    "PNG, grey, 1 bit, transparent": lambda: flat_png(SIDE, 1, 0, transparent=True),
    "PNG, grey, 16 bits": lambda: flat_png(SIDE, 16, 0),
    "PNG, grey, 16 bits, interlaced": lambda: flat_png(SIDE, 16, 0, interlaced=True),
    "PNG, grey, 16 bits, transparent": lambda: flat_png(SIDE, 16, 0, transparent=True),
    "PNG, RGB, 16 bits": lambda: flat_png(SIDE, 16, 2),
    "PNG, RGB, 8 bits, transparent": lambda: flat_png(SIDE, 8, 2, transparent=True),
    "PNG, palette": lambda: flat_png(SIDE, 8, 3),
    "PNG, palette, transparent": lambda: flat_png(SIDE, 8, 3, transparent=True),
    "PNG, grey with alpha, 16 bits": lambda: flat_png(SIDE, 16, 4),
    "PNG, RGBA, 8 bits": lambda: flat_png(SIDE, 8, 6),
    "PNG, RGBA, 16 bits, interlaced": lambda: flat_png(SIDE, 16, 6, interlaced=True),
    "JPEG, progressive, whole chroma": lambda: encoded("RGB", "JPEG", progressive=True, subsampling=0),
    "JPEG, CMYK, progressive": lambda: encoded("CMYK", "JPEG", progressive=True),
    "GIF, transparent": lambda: encoded("P", "GIF", transparency=0),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", LARGE.values(), ids=LARGE.keys())
async def test_a_picture_of_49_million_pixels_is_decoded_within_the_limit(
    decoder: Decoder, make: Callable[[], bytes]
) -> None:
    decoded = await decoder.decode(make())
    assert (decoded.width, decoded.height) == (SIDE, SIDE)
    [child] = children()
    assert memory_bytes(child) < ImagesSettings().max_decode_memory_bytes + _CHILD_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"lossless": True}, {"lossless": False, "quality": 1}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
async def test_a_webp_that_needs_too_much_memory_is_refused_before_it_is_decoded(
    decoder: Decoder, mode: str, options: dict[str, object]
) -> None:
    """A file of 36 bytes took 750 MiB."""
    assert (
        await refusal(decoder, flat_webp(SIDE, mode, **options))
        == "The image has 49,000,000 pixels; as a WebP at most 27,633,061 are accepted"
    )
    [child] = children()
    assert memory_bytes(child) < _CHILD_BYTES


@pytest.mark.parametrize("options", [{"lossless": True}, {"lossless": False, "quality": 1}])
async def test_the_largest_webp_that_is_accepted_is_decoded(decoder: Decoder, options: dict[str, object]) -> None:
    assert (await decoder.decode(flat_webp(5256, "RGBA", **options))).width == 5256


async def test_a_webp_with_enormous_tables_fails_in_the_child_and_the_next_picture_is_decoded(decoder: Decoder) -> None:
    """17 million pixels take 280 MiB, and the tables of this file take 364 MiB more."""
    assert "The image " in await refusal(decoder, swelling_webp(4))
    for child in children():
        assert memory_bytes(child) < ImagesSettings().max_decode_memory_bytes + _CHILD_BYTES
    assert (await decoder.decode(picture())).width == 64


async def test_exhausted_memory_is_reported() -> None:
    async for decoder in opened(max_decode_memory_bytes=32 << 20):
        said = await refusal(decoder, flat_png(SIDE, 8, 6))
        assert said == "The image needs more than 32 MiB of memory to be decoded"
        assert children() == []
        assert (await decoder.decode(picture())).width == 64


async def test_a_picture_that_takes_too_long_is_refused_and_its_child_ends() -> None:
    async for decoder in opened(max_decode_seconds=0.2):
        slow = flat_png(SIDE, 16, 6, interlaced=True)
        assert await refusal(decoder, slow) == "The image takes more than 0.2 seconds to decode"
        assert children() == []


async def test_one_child_decodes_one_picture_after_the_other(decoder: Decoder) -> None:
    for name in ("PNG", "JPEG", "WEBP", "GIF"):
        assert (await decoder.decode(picture(name))).width == 64
    with pytest.raises(HTTPException, match="415"):
        await decoder.decode(b"hello")
    assert "cannot be decoded" in await refusal(decoder, picture()[:100])
    assert len(children()) == 1


async def test_a_child_that_was_killed_is_replaced(decoder: Decoder) -> None:
    await decoder.decode(picture())
    [child] = children()
    os.kill(child, signal.SIGKILL)
    for process in decoder._idle:
        await process.wait()
    assert (await decoder.decode(picture())).width == 64


async def test_a_decoder_that_crashes_costs_its_picture_alone(decoder: Decoder) -> None:
    await decoder.decode(picture())
    [child] = children()
    os.kill(child, signal.SIGSTOP)
    decoding = asyncio.create_task(refusal(decoder, picture()))
    await asyncio.sleep(0)
    os.kill(child, signal.SIGKILL)
    with capture_logs() as logs:
        assert "cannot be decoded" in await decoding
    assert [(entry["event"], entry["exit_code"]) for entry in logs] == [("image decoder crashed", -signal.SIGKILL)]
    assert (await decoder.decode(picture())).width == 64


async def test_a_child_that_cannot_start_is_an_outage_and_not_a_damaged_picture(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "imaging.py"
    script.write_text("import a_library_that_is_not_installed")
    monkeypatch.setattr("modules.images.decoding._SCRIPT", script)
    with capture_logs() as logs, pytest.raises(Unavailable):
        await decoder.decode(picture())
    assert [entry["log_level"] for entry in logs] == ["error"]
    assert children() == []


async def test_a_cancelled_request_ends_its_child(decoder: Decoder) -> None:
    await decoder.decode(picture())
    [child] = children()
    os.kill(child, signal.SIGSTOP)
    decoding = asyncio.create_task(decoder.decode(picture()))
    await asyncio.sleep(0)
    decoding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await decoding
    assert children() == []


async def test_messages_of_a_library_about_a_picture_do_not_reach_the_log(
    decoder: Decoder, capfd: pytest.CaptureFixture[str]
) -> None:
    """One file made Pillow log 116,398 lines."""
    ifd = b"".join((0x9000 + number).to_bytes(2, "little") + b"\7\0\xff\xff\xff\x7f\0\0\0\0" for number in range(1000))
    exif = b"Exif\0\0II*\0\x08\0\0\0" + (1000).to_bytes(2, "little") + ifd
    assert (await decoder.decode(picture("JPEG", exif=exif))).width == 64
    assert capfd.readouterr() == ("", "")


async def test_no_child_is_left_when_the_decoder_is_closed() -> None:
    decoder = Decoder(ImagesSettings())
    await asyncio.gather(*(decoder.decode(picture()) for _ in range(3)))
    assert len(children()) == 3
    await decoder.close()
    assert children() == []
