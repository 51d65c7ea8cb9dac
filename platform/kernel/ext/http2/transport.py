"""The errors of HTTP/2 connections, as those of the HTTP client."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import h2.exceptions
import httpx2


class ProtocolErrors(httpx2.AsyncBaseTransport):
    """Raises RemoteProtocolError where httpx2 lets an error of h2 through.

    That happens when a call that was cancelled has closed the connection while other calls use it.
    """

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            response = await self._inner.handle_async_request(request)
        except h2.exceptions.ProtocolError as error:
            raise httpx2.RemoteProtocolError(str(error), request=request) from error
        response.stream = _Stream(response.stream, request)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Stream(httpx2.AsyncByteStream):
    def __init__(self, inner: Any, request: httpx2.Request) -> None:
        self._inner = inner
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async with aclosing(aiter(self._inner)) as parts:
                async for part in parts:
                    yield part
        except h2.exceptions.ProtocolError as error:
            raise httpx2.RemoteProtocolError(str(error), request=self._request) from error

    async def aclose(self) -> None:
        await self._inner.aclose()
