"""Limits on the body of a response: it must arrive by the deadline of the call, and fit."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import httpx2

from kernel.http_client import too_late


class LimitedBodies(httpx2.AsyncBaseTransport):
    """Limits the bodies of the responses that the inner transport returns."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, max_bytes: int) -> None:
        self._inner = inner
        self._max_bytes = max_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        return _LimitedResponse(response, _LimitedStream(response.stream, request, self._max_bytes), self._max_bytes)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _LimitedStream(httpx2.AsyncByteStream):
    """A body as it arrives. The read timeout alone would start again with each part."""

    def __init__(self, inner: Any, request: httpx2.Request, max_bytes: int) -> None:
        self._inner = inner
        self._request = request
        self._bytes_left = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        # The request of an `Auth` has no deadline; the call that caused it has one.
        deadline = self._request.extensions.get("deadline")
        async with aclosing(aiter(self._inner)) as parts:
            while True:
                timeout = asyncio.timeout(None if deadline is None else deadline - time.monotonic())
                try:
                    async with timeout:
                        part = await anext(parts, None)
                except TimeoutError as error:
                    if not timeout.expired():
                        raise
                    raise too_late(self._request) from error
                if part is None:
                    return
                self._bytes_left -= len(part)
                if self._bytes_left < 0:
                    raise _too_large(self._request)
                yield part

    async def aclose(self) -> None:
        await self._inner.aclose()


class _LimitedResponse(httpx2.Response):
    """A response whose body fits after its decompression, too."""

    def __init__(self, response: httpx2.Response, stream: httpx2.AsyncByteStream, max_bytes: int) -> None:
        super().__init__(response.status_code, headers=response.headers, stream=stream, extensions=response.extensions)
        self._max_bytes = max_bytes

    async def aiter_bytes(self, chunk_size: int | None = None) -> AsyncGenerator[bytes, None]:
        size = 0
        async with aclosing(super().aiter_bytes(chunk_size)) as parts:
            async for part in parts:
                size += len(part)
                if size > self._max_bytes:
                    raise _too_large(self.request)
                yield part


def _too_large(request: httpx2.Request) -> httpx2.RemoteProtocolError:
    message = f"{request.url.host}: the answer is larger than HTTP_CLIENT_MAX_ANSWER_BYTES"
    return httpx2.RemoteProtocolError(message, request=request)
