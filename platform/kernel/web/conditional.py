"""Conditional requests (RFC 9110, section 13): ETag, If-Match and If-None-Match on a row's version."""

import re
from itertools import islice
from typing import Annotated

from fastapi import Depends, Header, Request, Response
from starlette.exceptions import HTTPException

from kernel.web.problems import Unprocessable

# More tags in one header are refused. Browsers and caches send a few; each one costs time in the database.
_MAX_TAGS = 20
_TAG = re.compile(r'(W/)?"([^"]*)"')


class ETag:
    """Sets the ETag of a response: `etag.set(event.version)`."""

    def __init__(self, request: Request, response: Response, if_none_match: str | None) -> None:
        self._method = request.method
        self._response = response
        self._known = if_none_match

    def set(self, version: int | str) -> None:
        """Set the ETag of the response. Ends a GET with 304 if the caller already has this version.

        Ends a change with `If-None-Match: *` with 412, because the resource exists.
        """
        tag = f'"{version}"'
        if self._known is not None:
            if self._method in {"GET", "HEAD"}:
                if matches(self._known, tag):
                    raise HTTPException(304, headers={"ETag": tag})
            elif self._method != "POST" and self._known.strip() == "*":
                raise HTTPException(412, "The resource already exists.")
        self._response.headers["ETag"] = tag


def matches(if_none_match: str, tag: str) -> bool:
    """Return whether `If-None-Match` contains this strong tag, by the weak comparison of RFC 9110.

    Raises Unprocessable if the header contains too many tags.
    """
    opaque = tag.strip('"')
    return if_none_match.strip() == "*" or opaque in {found for _, found in _tags(if_none_match, "if-none-match")}


def _tags(value: str, header: str) -> list[tuple[str, str]]:
    """Return the tags of a header, each with `W/` if it is weak. Raises Unprocessable if there are too many."""
    found = [(one[1] or "", one[2]) for one in islice(_TAG.finditer(value), _MAX_TAGS + 1)]
    if len(found) > _MAX_TAGS:
        problem = f"contains more than {_MAX_TAGS} tags: send only those of the versions that you have"
        raise Unprocessable(header, problem, code="too_long", part="header")
    return found


# Both are asynchronous although they await nothing: FastAPI would run synchronous ones in a thread, which is slower.


async def _etag(request: Request, response: Response, if_none_match: Annotated[str | None, Header()] = None) -> ETag:
    return ETag(request, response, if_none_match)


async def _versions(
    if_match: Annotated[
        str | None,
        Header(description="Change the resource only if it has this ETag; otherwise the answer is 412."),
    ] = None,
) -> frozenset[int] | None:
    if if_match is None or if_match.strip() == "*":
        return None
    tags = _tags(if_match, "if-match")
    return frozenset(int(tag) for weak, tag in tags if not weak and tag.isdecimal() and len(tag) < 10)


Conditional = Annotated[ETag, Depends(_etag)]
"""For handlers that return one versioned resource."""

ExpectedVersions = Annotated[frozenset[int] | None, Depends(_versions)]
"""The versions in `If-Match`: None without the header, empty if it contains no valid version."""
