"""The rows that every application reads, the same in every run, and the picture for uploads."""

import datetime as dt
import hashlib
import io
from collections.abc import Iterator
from typing import Any

from PIL import Image

EVENTS = 10_000
IMAGES = 5
# Ids from here on belong to rows that a turn may change or delete.
POOL_START = 1_000_000_000

_NOUNS = (
    "concert", "reading", "lecture", "market", "festival", "workshop", "opening", "premiere", "screening", "recital",
    "exhibition", "rehearsal", "tournament", "marathon", "parade", "auction", "banquet", "carnival", "debate", "gala",
    "hackathon", "masquerade", "meetup", "picnic", "regatta", "seminar", "tasting", "walk", "cabaret", "hike",
)  # fmt: skip
_PLACES = ("Berlin", "Lisbon", "Kraków", "Montréal", "Nairobi", "Kyoto", "São Paulo", "Tromsø")
_KINDS = ("open-air", "yearly", "first", "small", "late", "bilingual", "free")
_EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

EVENT_COLUMNS = (
    "id", "title", "description", "date", "time", "location", "image_id", "created_at", "updated_at", "version",
)  # fmt: skip
IMAGE_COLUMNS = (
    "id", "caption", "content_type", "width", "height", "size_bytes", "sha256", "content_key", "thumbnail_key",
    "created_at", "updated_at", "version",
)  # fmt: skip

SEARCH_WORDS = _NOUNS


def event_rows(first: int, count: int) -> Iterator[tuple[Any, ...]]:
    """Return rows for EVENT_COLUMNS with ids from `first` on."""
    for number in range(count):
        noun, kind, place = _NOUNS[number % 30], _KINDS[number % 7], _PLACES[number % 8]
        description = (
            f"A {kind} evening in {place}: bring friends, come early, and stay for what happens afterwards. "
            f"Tickets at the door, {number % 30 + 5} euros, children free."
        )
        made = _EPOCH + dt.timedelta(seconds=number, microseconds=number * 7 % 1_000_000)
        yield (
            first + number,
            f"{kind.capitalize()} {noun} number {number}",
            description,
            dt.date(2030, 1, 1) + dt.timedelta(days=number * 7 % 730),
            dt.time(8 + number % 15, number * 5 % 60),
            place,
            number % IMAGES + 1 if number % 10 == 0 else None,
            made,
            made,
            1,
        )


def image_rows() -> Iterator[tuple[Any, ...]]:
    """Return rows for IMAGE_COLUMNS."""
    content = png()
    for number in range(1, IMAGES + 1):
        keys = (f"aa/0{number}/content-{number}", f"aa/0{number}/thumbnail-{number}")
        digest = hashlib.sha256(content).hexdigest()
        made = _EPOCH + dt.timedelta(seconds=number)
        yield (number, f"Picture {number}", "image/png", 64, 64, len(content), digest, *keys, made, made, 1)


def png() -> bytes:
    """Return a picture of 64 x 64 pixels."""
    picture = Image.new("RGB", (64, 64))
    picture.putdata([(x * 4, y * 4, (x ^ y) * 4) for y in range(64) for x in range(64)])
    output = io.BytesIO()
    picture.save(output, "PNG")
    return output.getvalue()
