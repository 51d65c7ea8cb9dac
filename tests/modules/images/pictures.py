"""Generates pictures for tests."""

import io
import struct
import zlib
from typing import Any

from PIL import Image

FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}


def picture(name: str = "PNG", size: tuple[int, int] = (64, 48), mode: str = "RGB", **options: Any) -> bytes:
    """Return an image file of the format `name`."""
    output = io.BytesIO()
    noise = Image.effect_noise(size, 50)
    (noise.convert("I").convert(mode) if mode == "I;16" else noise.convert(mode)).save(output, name, **options)
    return output.getvalue()


def flat_png(side: int, bits: int, colour: int, *, interlaced: bool = False, transparent: bool = False) -> bytes:
    """Return a square PNG of one colour: a few kilobytes for any number of pixels.

    `colour` is the PNG's colour type.
    """
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    # Adam7.
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    packer = zlib.compressobj(9)
    packed = b""
    for left, top, right, down in passes if interlaced else ((0, 0, 1, 1),):
        width, height = -(-(side - left) // right), -(-(side - top) // down)
        row = bytes(1 + -(-width * channels * bits // 8))
        packed += b"".join(packer.compress(row) for _ in range(height))
    chunks = [_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, interlaced))]
    if colour == 3:
        chunks.append(_chunk(b"PLTE", bytes(3 << min(bits, 8))))
    if transparent:
        chunks.append(_chunk(b"tRNS", bytes({0: 2, 2: 6, 3: 1 << bits}[colour])))
    chunks += [_chunk(b"IDAT", packed + packer.flush()), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def flat_webp(side: int, mode: str = "RGB", **options: Any) -> bytes:
    """Return a square WebP of one colour: 36 bytes for any number of pixels."""
    output = io.BytesIO()
    Image.new(mode, (side, side)).save(output, "WEBP", method=0, **{"lossless": True} | options)
    return output.getvalue()


class _Bits:
    """Writes numbers of some bits each, the lowest bit first (RFC 9649, section 3.2)."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._pending = self._count = 0

    def put(self, value: int, bits: int) -> None:
        self._pending |= value << self._count
        self._count += bits
        while self._count >= 8:
            self._bytes.append(self._pending & 255)
            self._pending, self._count = self._pending >> 8, self._count - 8

    def put_code_of_one_symbol(self) -> None:
        self.put(0b0001, 4)  # A simple code of one symbol: one bit, zero.

    def put_code_of_bytes(self, unused: int) -> None:
        """Write a code with 8 bits for each of 256 symbols, and none for the `unused` ones behind them."""
        self.put(0, 1)
        self.put(12 - 4, 4)
        for symbol in (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8):
            self.put(symbol in {8, 18}, 3)
        self.put(0, 1 + 256)  # All symbols have a length, and that of 256 symbols is 8.
        if unused:
            self.put(1, 1)
            self.put(unused - 11, 7)

    def whole(self) -> bytes:
        data = self._bytes + bytes((self._pending, *bytes(8)))
        return bytes(data + bytes(len(data) % 2))


def swelling_webp(tile_bits: int) -> bytes:
    """Return a lossless WebP of 288 KiB with 65,536 groups of prefix codes, whose tables take 364 MiB when decoded.

    It has a group for each of 256 x 256 tiles; a tile has 1 << `tile_bits` pixels a side. See RFC 9649, section 3.
    """
    bits = _Bits()
    side = 256 << tile_bits
    for value, count in ((0x2F, 8), (side - 1, 14), (side - 1, 14), (0, 4)):
        bits.put(value, count)
    for value, count in ((0, 2), (1, 1), (tile_bits - 2, 3), (0, 1)):  # No transform, no cache, many groups.
        bits.put(value, count)
    bits.put_code_of_bytes(24)
    bits.put_code_of_bytes(0)
    for _ in range(3):
        bits.put_code_of_one_symbol()
    for group in range(1 << 16):
        for byte in (group & 255, group >> 8):
            bits.put(int(f"{byte:08b}"[::-1], 2), 8)
    for _ in range(5 << 16):
        bits.put_code_of_one_symbol()
    data = bits.whole()
    body = b"WEBPVP8L" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body
