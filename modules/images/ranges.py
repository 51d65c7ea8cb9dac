"""Parts of a body (RFC 9110, section 14)."""

import re
from dataclasses import dataclass

_ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class Unsatisfiable(Exception):
    """The range begins behind the end."""


@dataclass(frozen=True)
class Span:
    """The bytes from `start` up to but not including `end`."""

    start: int
    end: int


def requested(header: str | None, size: int) -> Span | None:
    """The one range that `Range` asks of `size` bytes. None: send all.

    That is also the answer to what is malformed and to several ranges at once, which a server may ignore.
    Raises Unsatisfiable.
    """
    match = _ONE_RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:  # the last so many
        span = Span(max(0, size - int(last)), size)
    elif last and int(last) < int(first):
        return None
    else:
        span = Span(int(first), min(size, int(last) + 1) if last else size)
    if span.start >= span.end:
        raise Unsatisfiable
    return span
