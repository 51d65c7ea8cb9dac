"""The limits on the body of a response: its deadline when it is read in parts, and its size."""

import gzip
import time
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2
import pytest

from kernel.http_client import HttpxRestClientPool
from tests.core.https_server import Call, Handler, HttpServer, Reply
from tests.core.upstreams import DRIP, always, read_streamed
from tests.http_resilience.pools import retrying_pool

pytestmark = pytest.mark.integration


@pytest.fixture
def pool(ca_file: Path) -> Callable[..., HttpxRestClientPool]:
    """Return a function that makes a pool that trusts the servers of these tests."""
    return lambda **changes: retrying_pool(ca_file=ca_file, **changes)


@pytest.mark.alone
async def test_a_slow_body_ends_at_the_deadline(
    pool: Callable[..., HttpxRestClientPool], tls_server: Callable[[Handler], HttpServer]
) -> None:
    async with tls_server(always(DRIP)) as server, pool() as opened:
        started = time.monotonic()
        with pytest.raises(httpx2.ReadTimeout, match=r"GET 127\.0\.0\.1: no complete answer within 0\.3 s"):
            await read_streamed(opened.get_client(), server.url, extensions={"total_timeout": 0.3})
        assert 0.29 <= time.monotonic() - started < 0.8
    assert len(server.calls) == 1


async def test_an_answer_that_never_pauses_ends_at_the_deadline(
    pool: Callable[..., HttpxRestClientPool], tls_server: Callable[[Handler], HttpServer]
) -> None:
    # More than any machine can send within the deadline.
    async with tls_server(always(Reply(body=b"." * 200_000_000))) as server, pool() as opened:
        with pytest.raises(httpx2.ReadTimeout, match=r"within 0\.05 s"):
            await read_streamed(opened.get_client(), server.url, extensions={"total_timeout": 0.05})


async def test_an_answer_that_is_too_large_is_not_read(pool: Callable[..., HttpxRestClientPool]) -> None:
    async with HttpServer(always(Reply(body=b"." * 1000))) as server, pool(max_answer_bytes=999) as opened:
        with pytest.raises(httpx2.RemoteProtocolError, match="HTTP_CLIENT_MAX_ANSWER_BYTES"):
            await opened.get_client().get(server.url)


async def whole(answer: httpx2.Response) -> None:
    await answer.aread()


async def in_parts(answer: httpx2.Response) -> None:
    [None async for _ in answer.aiter_bytes(1000)]


async def by_line(answer: httpx2.Response) -> None:
    [None async for _ in answer.aiter_lines()]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "gzip, gzip"])
@pytest.mark.parametrize("read", [whole, in_parts, by_line])
async def test_an_answer_that_is_too_large_when_decompressed_is_not_kept_in_memory(
    pool: Callable[..., HttpxRestClientPool], coding: str, read: Callable[[httpx2.Response], Awaitable[None]]
) -> None:
    """A thousand compressed bytes become a million: 1.5 MB took 1.3 GB."""
    body = b"x" * 50_000_000
    for one in coding.split(", "):
        body = gzip.compress(body) if one == "gzip" else zlib.compress(body)

    async def handler(_call: Call) -> Reply:
        return Reply(200, {"content-encoding": coding}, body)

    async with (
        HttpServer(handler) as server,
        pool(max_answer_bytes=2_000_000) as opened,
        opened.get_client().stream("GET", server.url) as answer,
    ):
        tracemalloc.start()
        with pytest.raises(httpx2.RemoteProtocolError, match="HTTP_CLIENT_MAX_ANSWER_BYTES"):
            await read(answer)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 20_000_000


async def test_a_response_below_the_limit_after_decompression_is_read_completely(
    pool: Callable[..., HttpxRestClientPool],
) -> None:
    async def handler(_call: Call) -> Reply:
        return Reply(200, {"content-encoding": "gzip"}, gzip.compress(b"x" * 1000))

    async with HttpServer(handler) as server, pool(max_answer_bytes=1000) as opened:
        answer = await opened.get_client().get(server.url)
        assert answer.content == b"x" * 1000
        assert [part async for part in answer.aiter_bytes()] == [b"x" * 1000]
