"""The pool of outgoing connections against a real server: reuse, limits, deadlines and redirects."""

import asyncio
import gc
import random
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
import trustme

from kernel.http_client import HttpxRestClientPool
from kernel.settings import HttpClientSettings
from tests.core.https_server import Call, Handler, Hang, HttpServer, Reply, tls_context
from tests.core.upstreams import (
    DRIP,
    after,
    always,
    first,
    read_all,
)
from tests.core.waiting import until_true

pytestmark = pytest.mark.integration


@pytest.fixture
def pool(ca_file: Path) -> Callable[..., HttpxRestClientPool]:
    """Return a function that makes a pool that trusts the servers of these tests."""
    return lambda **changes: HttpxRestClientPool(HttpClientSettings(**{"ca_file": ca_file} | changes))


async def test_sequential_http1_calls_use_one_connection(pool: Callable[..., HttpxRestClientPool]) -> None:
    async with HttpServer(always(Reply())) as server, pool() as opened:
        for _ in range(10):
            response = await opened.get_client().get(server.url)
            assert (response.status_code, response.text, response.http_version) == (200, "ok", "HTTP/1.1")
    assert (len(server.calls), server.connections) == (10, 1)


async def test_there_are_never_more_connections_than_allowed(pool: Callable[..., HttpxRestClientPool]) -> None:
    async with HttpServer(after(0.05, Reply())) as server, pool(max_connections=2) as opened:
        responses = await asyncio.gather(*(opened.get_client().get(server.url) for _ in range(10)))
    assert {response.status_code for response in responses} == {200}
    assert server.most_at_once == 2


async def test_no_more_idle_connections_are_kept_than_allowed(pool: Callable[..., HttpxRestClientPool]) -> None:
    async with HttpServer(always(Reply())) as server, pool(max_keepalive_connections=0) as opened:
        for _ in range(3):
            await opened.get_client().get(server.url)
    assert server.connections == 3


@pytest.mark.alone
async def test_waiting_for_a_free_connection_ends_after_the_pool_timeout(
    pool: Callable[..., HttpxRestClientPool],
) -> None:
    async with HttpServer(always(Hang())) as server, pool(max_connections=1, pool_timeout_seconds=0.5) as opened:
        holder = asyncio.create_task(opened.get_client().get(server.url))
        await until_true(lambda: server.calls)
        started = time.monotonic()
        with pytest.raises(httpx2.PoolTimeout):
            await opened.get_client().get(server.url)
        assert 0.49 < time.monotonic() - started < 1.2  # One wait: two retries would take 1.5 s.
        holder.cancel()
        await asyncio.wait([holder])


async def test_two_pools_work_in_one_process(pool: Callable[..., HttpxRestClientPool]) -> None:
    async with HttpServer(always(Reply())) as server, pool() as one:
        async with pool() as other:
            assert one.get_client() is not other.get_client()
            await one.get_client().get(server.url)
            await other.get_client().get(server.url)
            assert server.connections == 2
        await one.get_client().get(server.url)
        assert server.connections == 2


async def test_a_pool_that_is_not_open_raises_an_error(pool: Callable[..., HttpxRestClientPool]) -> None:
    not_open = r"not open: use it while the application runs"
    closed = pool()
    with pytest.raises(RuntimeError, match=not_open):
        closed.get_client()
    async with closed:
        closed.get_client()
    with pytest.raises(RuntimeError, match=not_open):
        closed.get_client()


async def test_an_unknown_authority_is_refused_at_once(
    pool: Callable[..., HttpxRestClientPool], authority: trustme.CA
) -> None:
    tls = tls_context(authority, "h2", "http/1.1")
    async with HttpServer(always(Reply()), tls) as server, pool(ca_file=None) as opened:
        with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await opened.get_client().get(server.url)
    assert (server.connections, server.calls) == (1, [])


async def test_authorities_of_the_environment_are_ignored(
    pool: Callable[..., HttpxRestClientPool],
    tls_server: Callable[[Handler], HttpServer],
    ca_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    async with tls_server(always(Reply())) as server, pool(ca_file=None) as opened:
        with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await opened.get_client().get(server.url)


async def test_the_authority_in_the_ca_file_is_trusted(
    pool: Callable[..., HttpxRestClientPool], authority: trustme.CA, ca_file: Path
) -> None:
    tls = tls_context(authority, "http/1.1")
    async with HttpServer(always(Reply()), tls) as server, pool(ca_file=ca_file) as opened:
        assert (await opened.get_client().get(server.url)).status_code == 200


async def test_proxies_of_the_environment_are_ignored(
    pool: Callable[..., HttpxRestClientPool], authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with HttpServer(always(Reply()), listening=False) as dead:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, dead.url)
            monkeypatch.setenv(name.lower(), dead.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        tls = tls_context(authority, "http/1.1")
        async with HttpServer(always(Reply())) as plain, HttpServer(always(Reply()), tls) as secure, pool() as opened:
            assert (await opened.get_client().get(plain.url)).status_code == 200
            assert (await opened.get_client().get(secure.url)).status_code == 200


async def test_a_redirect_is_followed_only_on_request(pool: Callable[..., HttpxRestClientPool]) -> None:
    async def handler(call: Call) -> Reply:
        return Reply(302, {"location": "/new"}) if call.path == "/old" else Reply()

    async with HttpServer(handler) as server, pool() as opened:
        assert (await opened.get_client().get(f"{server.url}/old")).status_code == 302
        assert [call.path for call in server.calls] == ["/old"]
        assert (await opened.get_client().get(f"{server.url}/old", follow_redirects=True)).status_code == 200
    assert [call.path for call in server.calls] == ["/old", "/old", "/new"]


async def test_a_cookie_of_one_call_is_not_sent_with_the_next(pool: Callable[..., HttpxRestClientPool]) -> None:
    async with HttpServer(always(Reply(headers={"set-cookie": "session=alice"}))) as server, pool() as opened:
        client = opened.get_client()
        await client.get(server.url)
        await client.get(server.url)
        await client.get(server.url, headers={"Cookie": "session=bob"})
    assert [call.headers.get("cookie") for call in server.calls] == [None, None, "session=bob"]


@pytest.mark.alone
async def test_a_slow_response_ends_at_the_deadline(
    pool: Callable[..., HttpxRestClientPool],
    tls_server: Callable[[Handler], HttpServer],
) -> None:
    async with tls_server(always(DRIP)) as server, pool(total_timeout_seconds=0.5) as opened:
        started = time.monotonic()
        with pytest.raises(httpx2.ReadTimeout, match=r"GET 127\.0\.0\.1: no complete answer within 0\.5 s"):
            await read_all(opened.get_client(), server.url)
        assert 0.49 <= time.monotonic() - started < 1
    assert len(server.calls) == 1


@pytest.mark.alone
async def test_a_call_may_set_its_own_deadline(pool: Callable[..., HttpxRestClientPool]) -> None:
    async with HttpServer(always(DRIP)) as server, pool() as opened:
        started = time.monotonic()
        with pytest.raises(httpx2.ReadTimeout, match=r"within 0\.3 s"):
            await read_all(opened.get_client(), server.url, extensions={"total_timeout": 0.3})
        assert 0.29 <= time.monotonic() - started < 0.8


async def test_a_call_may_set_a_later_deadline_than_the_pool(pool: Callable[..., HttpxRestClientPool]) -> None:
    async with HttpServer(after(0.3, Reply())) as server, pool(total_timeout_seconds=0.1) as opened:
        response = await opened.get_client().get(server.url, extensions={"total_timeout": 5})
    assert response.status_code == 200


@pytest.mark.alone
async def test_an_answer_that_never_starts_ends_at_the_deadline(
    pool: Callable[..., HttpxRestClientPool], tls_server: Callable[[Handler], HttpServer]
) -> None:
    async with tls_server(always(Hang())) as server, pool(total_timeout_seconds=0.3) as opened:
        started = time.monotonic()
        with pytest.raises(httpx2.ReadTimeout, match=r"within 0\.3 s"):
            await opened.get_client().get(server.url)
        assert 0.29 <= time.monotonic() - started < 0.8
    assert len(server.calls) == 1


@pytest.mark.alone
async def test_all_redirects_share_one_deadline(pool: Callable[..., HttpxRestClientPool]) -> None:
    in_circles = after(0.2, Reply(302, {"location": "/again"}))
    async with HttpServer(in_circles) as server, pool(total_timeout_seconds=0.5) as opened:
        started = time.monotonic()
        with pytest.raises(httpx2.ReadTimeout, match=r"within 0\.5 s"):
            await opened.get_client().get(server.url, follow_redirects=True)
        assert 0.49 <= time.monotonic() - started < 1
    assert len(server.calls) in {2, 3}


async def test_a_call_that_ended_at_its_deadline_frees_its_connection(
    pool: Callable[..., HttpxRestClientPool], tls_server: Callable[[Handler], HttpServer]
) -> None:
    async def handler(call: Call) -> Reply:
        return DRIP if call.path == "/slow" else Reply()

    async with tls_server(handler) as server, pool(max_connections=1, pool_timeout_seconds=1) as opened:
        client = opened.get_client()
        for _ in range(3):
            with pytest.raises(httpx2.ReadTimeout):
                await client.get(f"{server.url}/slow", extensions={"total_timeout": 0.15})
        assert (await client.get(server.url)).status_code == 200


async def test_a_response_read_in_part_frees_its_connection(
    pool: Callable[..., HttpxRestClientPool], tls_server: Callable[[Handler], HttpServer]
) -> None:
    async with tls_server(always(DRIP)) as server, pool(max_connections=1, pool_timeout_seconds=1) as opened:
        for _ in range(3):
            async with opened.get_client().stream("GET", server.url) as response:
                async for part in response.aiter_bytes():
                    assert part == b"."
                    break
    assert len(server.calls) == 3


async def test_a_call_that_timed_out_frees_its_connection(
    pool: Callable[..., HttpxRestClientPool], tls_server: Callable[[Handler], HttpServer]
) -> None:
    """httpcore2 2.16 keeps the unusable HTTP/2 connection in the pool until it expires."""
    async with tls_server(first(Hang())) as server, pool(max_connections=1, pool_timeout_seconds=1) as opened:
        client = opened.get_client()
        with pytest.raises(httpx2.ReadTimeout):
            await client.get(server.url, timeout=httpx2.Timeout(1, read=0.1))
        assert (await client.get(server.url)).status_code == 200


# The garbage collector closes the server's ends of the interrupted connections.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning")
async def test_ten_thousand_cancelled_calls_do_not_use_up_the_pool(
    pool: Callable[..., HttpxRestClientPool], tls_server: Callable[[Handler], HttpServer]
) -> None:
    """httpx 0.28.1 was blocked for ever after this."""
    chance = random.Random(1)
    cancelled = 0

    async def handler(call: Call) -> Reply:
        return Reply() if call.path == "/good" else Reply(body=b"." * 1_000, drip_seconds=0.001)

    async def cancel_one() -> None:
        nonlocal cancelled

        async def read() -> None:
            async with client.stream("GET", server.url) as response:
                await response.aread()

        task = asyncio.create_task(read())
        await asyncio.sleep(chance.uniform(0, 0.03))
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or isinstance(task.exception(), httpx2.TransportError)
        cancelled += 1

    async def cancel_many() -> None:
        for _ in range(500):
            await cancel_one()

    async with tls_server(handler) as server, pool(max_connections=10, max_keepalive_connections=10) as opened:
        client = opened.get_client()
        await asyncio.gather(*(cancel_many() for _ in range(20)))
        assert cancelled == 10_000
        for _ in range(10):
            with suppress(httpx2.TransportError):  # a connection that a cancelled call has broken fails one more call
                await client.get(f"{server.url}/good")
        responses = await asyncio.gather(*(client.get(f"{server.url}/good") for _ in range(20)))
    assert [response.status_code for response in responses] == [200] * 20
    gc.collect()


class TokenFirst(httpx2.Auth):
    """Requests a token before the call itself, as OAuth 2 does."""

    requires_response_body = True

    def __init__(self, url: str) -> None:
        self._url = url

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        answer = yield httpx2.Request("POST", f"{self._url}/token")
        request.headers["authorization"] = f"Bearer {answer.text}"
        yield request


async def test_an_auth_may_send_a_request_of_its_own(pool: Callable[..., HttpxRestClientPool]) -> None:
    async def handler(call: Call) -> Reply:
        return Reply(body=b"key") if call.path == "/token" else Reply(body=call.headers["authorization"].encode())

    async with HttpServer(handler) as server, pool() as open_pool:
        answer = await open_pool.get_client().get(server.url, auth=TokenFirst(server.url))
    assert answer.text == "Bearer key"
    assert [call.path for call in server.calls] == ["/token", "/"]


async def test_the_request_of_an_auth_shares_the_deadline_of_the_call(pool: Callable[..., HttpxRestClientPool]) -> None:
    async with HttpServer(always(Hang())) as server, pool(read_timeout_seconds=20) as open_pool:
        began_at = time.monotonic()
        with pytest.raises(httpx2.ReadTimeout):
            await open_pool.get_client().get(server.url, auth=TokenFirst(server.url), extensions={"total_timeout": 0.3})
    assert time.monotonic() - began_at < 5


async def test_a_request_that_was_created_without_the_client_has_a_deadline(
    pool: Callable[..., HttpxRestClientPool],
) -> None:
    async with HttpServer(always(Hang())) as server, pool(read_timeout_seconds=0.3) as open_pool:
        with pytest.raises(httpx2.ReadTimeout):
            await open_pool.get_client().send(httpx2.Request("GET", server.url))
