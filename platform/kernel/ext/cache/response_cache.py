"""The cached responses of an application.

A cached response is valid as long as its tags have the versions that they had before it was made: invalidating a tag
gives it a new version. So an invalidation also covers a response whose handler began to read before it and ends after
it. While the store does not answer, nothing is cached. Invalidations that it misses are repeated until it answers, and
until then this process reads nothing from it.
"""

import asyncio
import hashlib
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from typing import NamedTuple

import structlog

from kernel.ext.recorder import RecordedResponse
from kernel.ext.store.settings import StoreSettings
from kernel.ext.store.store import MemoryStore, SharedStore, StoreUnavailable

_log = structlog.get_logger("kernel.cache")

# How long a tag keeps its version. After that it gets another, and the responses with the tag are no longer valid.
TAG_SECONDS = 86400.0
# A tag of every response, for an outage in which too many tags are invalidated to remember each.
_ALL = "cache:all"
_MOST_MISSED = 1000
_RETRY_SECONDS = 0.5


class CachedResponse(NamedTuple):
    """A response from the cache."""

    response: RecordedResponse
    etag: str
    age_seconds: int


class ResponseCache:
    """Cached responses, in the application's Redis or, without one, in this process."""

    def __init__(self, settings: StoreSettings, shared: SharedStore, version: str, lag_seconds: float = 0) -> None:
        """Start empty. `version` is that of the application, because another version may give other responses.

        `lag_seconds` is the time by which reads may be behind writes. A response that is created within this time after
        one of its tags was invalidated may be out of date, and is not cached.
        """
        self._store = shared if shared.is_configured else MemoryStore(settings.memory_bytes)
        self._version = version
        self._lag_seconds = lag_seconds
        # Tags whose invalidation has not reached the store, each with a number that changes with every invalidation.
        self._missed: dict[str, int] = {}
        self._numbers = itertools.count()
        self._retrying: asyncio.Task[None] | None = None

    def key(self, *parts: str) -> str:
        """Return the key of the response that these parts identify."""
        text = json.dumps([self._version, *parts])
        return f"cache:answer:{hashlib.sha256(text.encode()).hexdigest()}"

    async def find(self, key: str, tags: Sequence[str]) -> tuple[list[str] | None, CachedResponse | None]:
        """Return the versions of the tags, and the cached response if there is one. Raises StoreUnavailable.

        The versions are None if the response to this request must not be cached.
        """
        if self._retrying is not None:
            raise StoreUnavailable
        names = [_ALL, *map(_name, tags)]
        found, *versions = await self._store.get([key, *names])
        if None in versions:
            await self._store.put({name: _new_version(0) for name in names}, TAG_SECONDS, if_new=True)
            versions = await self._store.get(names)
        current = [version.decode() for version in versions if version is not None]
        if found is not None and (cached := _decode(found, current)) is not None:
            return current, cached
        since = time.time() - self._lag_seconds
        is_settled = len(current) == len(names) and all(float(one.partition("-")[0]) <= since for one in current)
        return current if is_settled else None, None

    async def keep(self, key: str, versions: Sequence[str], response: RecordedResponse, seconds: float) -> None:
        """Cache a response for this time. Does nothing while the store does not answer."""
        with suppress(StoreUnavailable):
            await self._store.put({key: _encode(response, versions)}, seconds)

    async def forget(self, tags: Collection[str]) -> None:
        """Invalidate every response with one of these tags, at the latest soon after the store answers again."""
        names = [_name(tag) for tag in tags]
        self._missed.update((name, next(self._numbers)) for name in names)
        try:
            await self._invalidate(names)
        except BaseException as error:  # After a cancelled request too, whose invalidation is repeated.
            if len(self._missed) > _MOST_MISSED:
                self._missed = {_ALL: next(self._numbers)}
            if self._retrying is None:
                self._retrying = asyncio.create_task(self._retry(), context=Context())  # Without the request's context.
            if not isinstance(error, StoreUnavailable):
                raise

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """At the end, try once more to invalidate what the store has missed."""
        yield
        if self._retrying is not None:
            self._retrying.cancel()
            self._retrying = None
            with suppress(StoreUnavailable):
                await self._invalidate(list(self._missed))
            if self._missed:
                _log.warning("the store has missed invalidations: other processes use old responses until they expire")

    async def _retry(self) -> None:
        while self._missed:
            await asyncio.sleep(_RETRY_SECONDS)
            with suppress(StoreUnavailable):
                await self._invalidate(list(self._missed))
        self._retrying = None

    async def _invalidate(self, names: Sequence[str]) -> None:
        """Give these tags new versions. Raises StoreUnavailable, and then they stay among those that it has missed."""
        numbers = {name: self._missed.get(name) for name in names}
        await self._store.put({name: _new_version(time.time()) for name in names}, TAG_SECONDS)
        for name, number in numbers.items():
            if self._missed.get(name) == number:  # It was not invalidated again in the meantime.
                self._missed.pop(name, None)


def _encode(response: RecordedResponse, versions: Sequence[str]) -> bytes:
    etag = next((value.decode("latin-1") for name, value in response.headers if name.lower() == b"etag"), None)
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers]
    if etag is None:
        etag = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
        headers.append(("etag", etag))
    return json.dumps([versions, time.time(), etag, headers]).encode() + b"\n" + response.body


def _decode(text: bytes, current: Sequence[str]) -> CachedResponse | None:
    """Return the response, or None if one of its tags has another version now."""
    head, _, body = text.partition(b"\n")
    versions, cached_at, etag, headers = json.loads(head)
    if versions != current:
        return None
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return CachedResponse(RecordedResponse(200, pairs, body), etag, max(0, int(time.time() - cached_at)))


def _name(tag: str) -> str:
    return f"cache:tag:{tag}"


def _new_version(invalidated_at: float) -> bytes:
    return f"{invalidated_at:.3f}-{os.urandom(8).hex()}".encode()
