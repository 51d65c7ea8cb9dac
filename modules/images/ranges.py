"""Parse the Range header (RFC 9110, section 14)."""

import re
from dataclasses import dataclass

_ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class Unsatisfiable(Exception):
    """The range begins after the end of the body."""


@dataclass(frozen=True)
class Span:
    """The bytes from `start` up to but not including `end`."""

    start: int
    end: int


def requested(header: str | None, size: int) -> Span | None:
    """Return the range of a body of `size` bytes that the header requests, or None to send the whole body.

    Malformed headers and several ranges return None as well: a server may ignore them. Raises Unsatisfiable.
    """
    match = _ONE_RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:  # a suffix: the last N bytes
        span = Span(max(0, size - int(last)), size)
    elif last and int(last) < int(first):
        return None
    else:
        span = Span(int(first), min(size, int(last) + 1) if last else size)
    if span.start >= span.end:
        raise Unsatisfiable
    return span
