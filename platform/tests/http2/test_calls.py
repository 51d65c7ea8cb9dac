"""Calls over HTTP/2: what differs from HTTP/1.1, and the tests of the core that hold for both."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from kernel.ext.http2.extension import install
from kernel.http_client import HttpxRestClientPool
from kernel.settings import HttpClientSettings
from tests.core.https_server import Call, Handler, Hang, HttpServer, Reply, tls_context
from tests.core.test_http_client import (  # noqa: F401  # pytest runs them here with the fixtures below
    test_a_call_that_ended_at_its_deadline_frees_its_connection,
    test_a_call_that_timed_out_frees_its_connection,
    test_a_response_read_in_part_frees_its_connection,
    test_a_slow_response_ends_at_the_deadline,
    test_an_answer_that_never_starts_ends_at_the_deadline,
    test_an_unknown_authority_is_refused_at_once,
    test_ten_thousand_cancelled_calls_do_not_use_up_the_pool,
)

pytestmark = pytest.mark.integration


@pytest.fixture
def pool(ca_file: Path) -> Callable[..., HttpxRestClientPool]:
    """Return a function that makes a pool with HTTP/2 that trusts the servers of these tests."""

    def make(**changes: object) -> HttpxRestClientPool:
        made = HttpxRestClientPool(HttpClientSettings(**{"ca_file": ca_file} | changes))
        install(made)
        return made

    return make


async def test_twenty_concurrent_http2_calls_share_one_connection(
    pool: Callable[..., HttpxRestClientPool], authority: trustme.CA
) -> None:
    all_are_here = asyncio.Event()

    async def handler(call: Call) -> Reply:
        if len(server.calls) == 20:
            all_are_here.set()
        await all_are_here.wait()
        return Reply(body=call.path.encode())

    tls = tls_context(authority, "h2", "http/1.1")
    async with HttpServer(handler, tls) as server, pool(total_timeout_seconds=5) as opened:
        client = opened.get_client()
        responses = await asyncio.gather(*(client.get(f"{server.url}/{number}") for number in range(20)))
    assert [response.text for response in responses] == [f"/{number}" for number in range(20)]
    assert {response.http_version for response in responses} == {"HTTP/2"}
    assert server.connections == 1


async def test_an_unread_body_on_http2_does_not_delay_other_calls(
    pool: Callable[..., HttpxRestClientPool], tls_server: Callable[[Handler], HttpServer]
) -> None:
    """httpcore2 2.16 never returns the part of the connection's window of 16 MiB that such bodies have used."""

    async def handler(call: Call) -> Reply:
        return Reply(body=b"." * 20_000_000) if call.path == "/big" else Reply()

    async with tls_server(handler) as server, pool(max_connections=1) as opened:
        client = opened.get_client()
        async with client.stream("GET", f"{server.url}/big") as response:
            async for _ in response.aiter_raw():
                break
        for _ in range(2):
            assert (await client.get(server.url)).text == "ok"
    assert server.connections == 1


async def test_buffered_unread_bodies_on_http2_do_not_delay_other_calls(
    pool: Callable[..., HttpxRestClientPool], tls_server: Callable[[Handler], HttpServer]
) -> None:
    async def handler(call: Call) -> Reply:
        if call.path == "/big":
            return Reply(body=b"." * 1_500_000)
        await asyncio.sleep(0.1)
        return Reply()

    async with tls_server(handler) as server, pool(max_connections=1) as opened:
        client = opened.get_client()
        for _ in range(16):
            async with client.stream("GET", f"{server.url}/big"):
                assert (await client.get(server.url)).text == "ok"  # data in between is stored
        assert len((await client.get(f"{server.url}/big")).content) == 1_500_000
    assert server.connections == 1


async def test_calls_that_timed_out_leave_their_http2_connection_usable(
    pool: Callable[..., HttpxRestClientPool], tls_server: Callable[[Handler], HttpServer]
) -> None:
    """httpcore2 2.16 never closes their streams: after 100 of them no later call to that origin would succeed."""

    async def handler(call: Call) -> Reply | Hang:
        return Reply() if call.path == "/good" else Hang()

    async with tls_server(handler) as server, pool() as opened:
        client = opened.get_client()
        for _ in range(3):
            await asyncio.gather(
                *(client.get(f"{server.url}/hang", extensions={"total_timeout": 0.1}) for _ in range(60)),
                return_exceptions=True,
            )
        good = await asyncio.gather(*(client.get(f"{server.url}/good") for _ in range(20)))
    assert {(response.status_code, response.http_version) for response in good} == {(200, "HTTP/2")}
