"""The pool of outgoing connections against a real server: what is reused, retried, refused and given up, and when."""

import asyncio
import contextlib
import gc
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme

from kernel.http_client.client import HttpxRestClientPool
from kernel.settings import HttpClientSettings
from tests.core.https_server import Call, Drop, Handler, Hang, HttpServer, Reply, tls_context

RETRIED_FAILURES = [Reply(429), Reply(502), Reply(503), Reply(504), Drop()]
KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def pool(ca_file: Path) -> Callable[..., HttpxRestClientPool]:
    """A pool that trusts the servers of these tests and makes short pauses."""
    return lambda **changes: HttpxRestClientPool(
        HttpClientSettings(**{"ca_file": ca_file, "backoff_seconds": 0.001, "max_backoff_seconds": 0.01} | changes)
    )


@pytest.fixture
def http2_server(authority: trustme.CA) -> Callable[[Handler], HttpServer]:
    return lambda handler: HttpServer(handler, tls_context(authority, "h2"))


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
def either_server(request: pytest.FixtureRequest, authority: trustme.CA) -> Callable[[Handler], HttpServer]:
    """A server of each protocol in turn, over TLS."""
    protocol = "h2" if request.param == "HTTP/2" else "http/1.1"
    return lambda handler: HttpServer(handler, tls_context(authority, protocol))


def always(todo: Reply | Drop | Hang) -> Handler:
    async def handler(call: Call) -> Reply | Drop | Hang:
        return todo

    return handler


def first(failure: Reply | Drop | Hang) -> Handler:
    """Fail once, then succeed."""

    async def handler(call: Call) -> Reply | Drop | Hang:
        return failure if call.attempt == 1 else Reply()

    return handler


def after(seconds: float, reply: Reply) -> Handler:
    async def handler(call: Call) -> Reply:
        await asyncio.sleep(seconds)
        return reply

    return handler


def gap(server: HttpServer) -> float:
    """The seconds between the only two calls."""
    one, two = server.calls
    return two.at - one.at


def shown(value: object) -> str:
    """The name of a parameter in the test's id."""
    match value:
        case Reply(status=status):
            return str(status)
        case Drop():
            return "dropped"
        case dict():
            return "with-key" if value else "without-key"
    return str(value)


class Connects:
    """Counts the attempts to connect, as httpx2 itself reports them, and may act before one."""

    def __init__(self, before: Callable[[int], None] = lambda attempt: None) -> None:
        self.count = 0
        self._before = before

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.started":
            self.count += 1
            self._before(self.count)


async def in_parts() -> AsyncIterator[bytes]:
    yield b"one"
    yield b"two"


# Connections and protocols.


async def test_sequential_http1_calls_use_one_connection(pool: Callable[..., HttpxRestClientPool]) -> None:
    async with HttpServer(always(Reply())) as server, pool() as opened:
        for _ in range(10):
            response = await opened.get_client().get(server.url)
            assert (response.status_code, response.text, response.http_version) == (200, "ok", "HTTP/1.1")
    assert (len(server.calls), server.connections) == (10, 1)


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


async def test_http2_can_be_switched_off(pool: Callable[..., HttpxRestClientPool], authority: trustme.CA) -> None:
    tls = tls_context(authority, "h2", "http/1.1")
    async with HttpServer(always(Reply()), tls) as server, pool(http2=False) as opened:
        response = await opened.get_client().get(server.url)
    assert response.http_version == "HTTP/1.1"
    assert server.calls[0].http_version == "HTTP/1.1"


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
        while not server.calls:  # noqa: ASYNC110  # the server keeps a list, not an event
            await asyncio.sleep(0.01)
        started = time.monotonic()
        with pytest.raises(httpx2.PoolTimeout):
            await opened.get_client().get(server.url)
        assert 0.49 < time.monotonic() - started < 1.2  # once: two retries would take 1.5 s
        holder.cancel()
        await asyncio.wait([holder])


async def test_two_pools_live_side_by_side(pool: Callable[..., HttpxRestClientPool]) -> None:
    async with HttpServer(always(Reply())) as server, pool() as one:
        async with pool() as other:
            assert one.get_client() is not other.get_client()
            await one.get_client().get(server.url)
            await other.get_client().get(server.url)
            assert server.connections == 2
        await one.get_client().get(server.url)
        assert server.connections == 2


async def test_the_pool_says_so_when_it_is_not_open(pool: Callable[..., HttpxRestClientPool]) -> None:
    not_open = r"not open: use it while the application runs"
    closed = pool()
    with pytest.raises(RuntimeError, match=not_open):
        closed.get_client()
    async with closed:
        closed.get_client()
    with pytest.raises(RuntimeError, match=not_open):
        closed.get_client()


# Trust.


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
    http2_server: Callable[[Handler], HttpServer],
    ca_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    async with http2_server(always(Reply())) as server, pool(ca_file=None) as opened:
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


async def test_a_redirect_is_followed_only_when_asked(pool: Callable[..., HttpxRestClientPool]) -> None:
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


# What is tried again.


@pytest.mark.parametrize("failure", RETRIED_FAILURES, ids=shown)
@pytest.mark.parametrize(
    ("method", "headers"),
    [*((method, {}) for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")), ("POST", KEY), ("PATCH", KEY)],
    ids=shown,
)
async def test_what_may_be_repeated_is_tried_again(
    pool: Callable[..., HttpxRestClientPool], method: str, headers: dict[str, str], failure: Reply | Drop
) -> None:
    content = b"same each time" if method in {"POST", "PATCH", "PUT"} else None
    async with HttpServer(first(failure)) as server, pool() as opened:
        response = await opened.get_client().request(method, server.url, headers=headers, content=content)
    assert response.status_code == 200
    assert [call.method for call in server.calls] == [method, method]
    assert {call.body for call in server.calls} == {content or b""}


@pytest.mark.parametrize("failure", RETRIED_FAILURES, ids=shown)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_what_may_not_be_repeated_is_sent_once(
    pool: Callable[..., HttpxRestClientPool], method: str, failure: Reply | Drop
) -> None:
    async with HttpServer(first(failure)) as server, pool() as opened:
        call = opened.get_client().request(method, server.url, json={"amount": 1})
        if isinstance(failure, Reply):
            assert (await call).status_code == failure.status
        else:
            with pytest.raises(httpx2.TransportError):
                await call
    assert len(server.calls) == 1


@pytest.mark.parametrize("status", [200, 304, 400, 404, 409, 500, 501])
async def test_an_answer_that_would_not_change_is_returned_at_once(
    pool: Callable[..., HttpxRestClientPool], status: int
) -> None:
    async with HttpServer(first(Reply(status, body=b""))) as server, pool() as opened:
        assert (await opened.get_client().get(server.url)).status_code == status
    assert len(server.calls) == 1


@pytest.mark.parametrize("failure", [Reply(503), Drop()], ids=shown)
async def test_both_protocols_are_retried_alike(
    pool: Callable[..., HttpxRestClientPool],
    either_server: Callable[[Handler], HttpServer],
    failure: Reply | Drop,
) -> None:
    async with either_server(first(failure)) as server, pool() as opened:
        client = opened.get_client()
        assert (await client.put(server.url, content=b"new")).status_code == 200
        assert [call.body for call in server.calls] == [b"new", b"new"]
        if isinstance(failure, Reply):
            assert (await client.post(server.url, content=b"new")).status_code == 503
        else:
            with pytest.raises(httpx2.TransportError):
                await client.post(server.url, content=b"new")
    assert [call.method for call in server.calls] == ["PUT", "PUT", "POST"]


async def test_after_three_tries_the_last_answer_is_returned(pool: Callable[..., HttpxRestClientPool]) -> None:
    async def handler(call: Call) -> Reply:
        return Reply(503, body=f"try {call.attempt}".encode())

    async with HttpServer(handler) as server, pool() as opened:
        response = await opened.get_client().get(server.url)
    assert (response.status_code, response.text) == (503, "try 3")
    assert len(server.calls) == 3


async def test_after_three_tries_the_last_error_is_raised(pool: Callable[..., HttpxRestClientPool]) -> None:
    async with HttpServer(always(Drop())) as server, pool() as opened:
        with pytest.raises(httpx2.TransportError):
            await opened.get_client().get(server.url)
    assert len(server.calls) == 3


async def test_a_single_try_can_be_configured(pool: Callable[..., HttpxRestClientPool]) -> None:
    async with HttpServer(always(Reply(503))) as server, pool(max_attempts=1) as opened:
        assert (await opened.get_client().get(server.url)).status_code == 503
    assert len(server.calls) == 1


async def test_an_upstream_that_is_too_slow_is_not_asked_twice(pool: Callable[..., HttpxRestClientPool]) -> None:
    async with HttpServer(always(Hang())) as server, pool(read_timeout_seconds=0.1) as opened:
        with pytest.raises(httpx2.ReadTimeout):
            await opened.get_client().get(server.url)
    assert len(server.calls) == 1


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
async def test_a_refused_connection_is_tried_three_times(pool: Callable[..., HttpxRestClientPool], method: str) -> None:
    connects = Connects()
    async with HttpServer(always(Reply()), listening=False) as server, pool() as opened:
        with pytest.raises(httpx2.ConnectError):
            await opened.get_client().request(method, server.url, extensions={"trace": connects})
    assert connects.count == 3


async def test_a_handshake_that_breaks_off_is_tried_again_even_for_a_post(
    pool: Callable[..., HttpxRestClientPool],
) -> None:
    accepted = 0

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server, pool() as opened:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(httpx2.ConnectError):
            await opened.get_client().post(f"https://127.0.0.1:{port}")
    assert accepted == 3


async def test_a_failed_answer_is_read_so_that_its_connection_serves_the_next_try(
    pool: Callable[..., HttpxRestClientPool],
) -> None:
    async with HttpServer(first(Reply(503, body=b"." * 50_000))) as server, pool() as opened:
        assert (await opened.get_client().get(server.url)).status_code == 200
    assert (len(server.calls), server.connections) == (2, 1)


async def test_a_failed_answer_that_drips_does_not_hold_up_the_next_try(
    pool: Callable[..., HttpxRestClientPool], either_server: Callable[[Handler], HttpServer]
) -> None:
    async with either_server(first(Reply(503, body=b"." * 200, drip_seconds=0.05))) as server, pool() as opened:
        assert (await opened.get_client().get(server.url)).status_code == 200
    assert gap(server) < 5  # the whole of it takes ten


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_post_is_sent_once_the_server_is_up(pool: Callable[..., HttpxRestClientPool], streamed: bool) -> None:
    connects = Connects(lambda attempt: server.listen() if attempt == 3 else None)
    async with HttpServer(always(Reply(201)), listening=False) as server, pool() as opened:
        content = in_parts() if streamed else b"onetwo"
        response = await opened.get_client().post(server.url, content=content, extensions={"trace": connects})
    assert (response.status_code, connects.count) == (201, 3)
    assert [call.body for call in server.calls] == [b"onetwo"]


@pytest.mark.parametrize("failure", [Reply(503), Drop()], ids=shown)
async def test_a_streamed_body_is_never_sent_twice(
    pool: Callable[..., HttpxRestClientPool], failure: Reply | Drop
) -> None:
    async with HttpServer(first(failure)) as server, pool() as opened:
        call = opened.get_client().put(server.url, content=in_parts(), headers=KEY)
        if isinstance(failure, Reply):
            assert (await call).status_code == 503
        else:
            with pytest.raises(httpx2.TransportError):
                await call
    assert [call.body for call in server.calls] == [b"onetwo"]


# When it is tried again.


async def test_retry_after_in_seconds_is_honoured(pool: Callable[..., HttpxRestClientPool]) -> None:
    async with HttpServer(first(Reply(503, {"retry-after": "1"}))) as server, pool() as opened:
        assert (await opened.get_client().get(server.url)).status_code == 200
    assert 0.99 <= gap(server) < 1.5


async def test_retry_after_as_a_date_is_honoured(pool: Callable[..., HttpxRestClientPool]) -> None:
    asked_for: list[float] = []

    async def handler(call: Call) -> Reply:
        if call.attempt > 1:
            return Reply()
        now = time.time()
        then = int(now + 1.3)  # a date has whole seconds: 0.3 to 1.3 from now
        asked_for.append(then - now)
        return Reply(429, {"retry-after": format_datetime(datetime.fromtimestamp(then, UTC), usegmt=True)})

    async with HttpServer(handler) as server, pool() as opened:
        assert (await opened.get_client().get(server.url)).status_code == 200
    assert asked_for[0] - 0.01 <= gap(server) < asked_for[0] + 0.5


@pytest.mark.parametrize(
    "value",
    [
        "soon",
        "-1",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Thu, 01 Jan 1970 00:00:00",
        "Thu, 01 Jan 1970 00:00:00 +99999999999999",
    ],
)
async def test_a_senseless_or_past_retry_after_is_no_reason_to_wait_or_fail(
    pool: Callable[..., HttpxRestClientPool], value: str
) -> None:
    async with HttpServer(first(Reply(503, {"retry-after": value}))) as server, pool() as opened:
        assert (await opened.get_client().get(server.url)).status_code == 200
    assert gap(server) < 2


@pytest.mark.parametrize("value", ["60", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"], ids=["60", "huge", "date"])
async def test_a_retry_after_beyond_the_deadline_ends_the_call_at_once(
    pool: Callable[..., HttpxRestClientPool], value: str
) -> None:
    started = time.monotonic()
    reply = Reply(503, {"retry-after": value}, b"later")
    async with HttpServer(first(reply)) as server, pool(total_timeout_seconds=5) as opened:
        response = await opened.get_client().get(server.url)
    assert (response.status_code, response.text) == (503, "later")
    assert time.monotonic() - started < 2
    assert len(server.calls) == 1


# The deadline.

DRIP = Reply(body=b"." * 200, drip_seconds=0.05)  # ten seconds, if one lets it


async def read_all(client: httpx2.AsyncClient, url: str, **options: Any) -> None:
    await client.get(url, **options)


async def read_streamed(client: httpx2.AsyncClient, url: str, **options: Any) -> None:
    async with client.stream("GET", url, **options) as response:
        assert response.status_code == 200
        async for _ in response.aiter_bytes():
            pass


@pytest.mark.alone
@pytest.mark.parametrize("read", [read_all, read_streamed])
async def test_a_dripping_answer_ends_at_the_deadline(
    pool: Callable[..., HttpxRestClientPool],
    either_server: Callable[[Handler], HttpServer],
    read: Callable[..., Awaitable[None]],
) -> None:
    async with either_server(always(DRIP)) as server, pool(total_timeout_seconds=0.5) as opened:
        started = time.monotonic()
        with pytest.raises(httpx2.ReadTimeout, match=r"GET 127\.0\.0\.1: no complete answer within 0\.5 s"):
            await read(opened.get_client(), server.url)
        assert 0.49 <= time.monotonic() - started < 1
    assert len(server.calls) == 1


@pytest.mark.alone
@pytest.mark.parametrize("read", [read_all, read_streamed])
async def test_a_call_may_set_its_own_deadline(
    pool: Callable[..., HttpxRestClientPool], read: Callable[..., Awaitable[None]]
) -> None:
    async with HttpServer(always(DRIP)) as server, pool() as opened:
        started = time.monotonic()
        with pytest.raises(httpx2.ReadTimeout, match=r"within 0\.3 s"):
            await read(opened.get_client(), server.url, extensions={"total_timeout": 0.3})
        assert 0.29 <= time.monotonic() - started < 0.8


async def test_an_answer_that_never_pauses_ends_at_the_deadline(
    pool: Callable[..., HttpxRestClientPool], either_server: Callable[[Handler], HttpServer]
) -> None:
    # More than any machine sends within the deadline.
    async with either_server(always(Reply(body=b"." * 200_000_000))) as server, pool() as opened:
        with pytest.raises(httpx2.ReadTimeout, match=r"within 0\.05 s"):
            await read_streamed(opened.get_client(), server.url, extensions={"total_timeout": 0.05})


async def read_slowly(client: httpx2.AsyncClient, url: str) -> None:
    async with client.stream("GET", url) as response:
        async for _ in response.aiter_bytes(100_000):
            await asyncio.sleep(0.05)


async def read_late(client: httpx2.AsyncClient, url: str) -> None:
    async with client.stream("GET", url) as response:
        await asyncio.sleep(0.5)
        await response.aread()


@pytest.mark.parametrize(
    ("read", "reply", "state"),
    [
        (read_slowly, Reply(body=b"." * 3_000_000), "closed"),
        (read_late, Reply(body=b"." * 3_000_000), "closed"),
        (read_streamed, DRIP, "open"),
    ],
    ids=["slow-reader", "late-reader", "slow-upstream"],
)
async def test_an_upstream_is_not_blamed_for_a_deadline_that_its_reader_missed(
    pool: Callable[..., HttpxRestClientPool], read: Callable[..., Awaitable[None]], reply: Reply, state: str
) -> None:
    async with HttpServer(always(reply)) as server, pool(total_timeout_seconds=0.4) as opened:
        reads = (read(opened.get_client(), server.url) for _ in range(12))
        ends = await asyncio.gather(*reads, return_exceptions=True)
        assert {type(end) for end in ends} == {httpx2.ReadTimeout}
        [circuit] = opened.circuits.values()
        assert circuit.state == state


async def test_a_call_may_set_a_later_deadline_than_the_pool(pool: Callable[..., HttpxRestClientPool]) -> None:
    async with HttpServer(after(0.3, Reply())) as server, pool(total_timeout_seconds=0.1) as opened:
        response = await opened.get_client().get(server.url, extensions={"total_timeout": 5})
    assert response.status_code == 200


@pytest.mark.alone
async def test_an_answer_that_never_starts_ends_at_the_deadline(
    pool: Callable[..., HttpxRestClientPool], either_server: Callable[[Handler], HttpServer]
) -> None:
    async with either_server(always(Hang())) as server, pool(total_timeout_seconds=0.3) as opened:
        started = time.monotonic()
        with pytest.raises(httpx2.ReadTimeout, match=r"within 0\.3 s"):
            await opened.get_client().get(server.url)
        assert 0.29 <= time.monotonic() - started < 0.8
    assert len(server.calls) == 1


@pytest.mark.alone
async def test_all_tries_share_one_deadline(pool: Callable[..., HttpxRestClientPool]) -> None:
    slow_failure = after(0.2, Reply(503))
    async with HttpServer(slow_failure) as server, pool(total_timeout_seconds=0.5, max_attempts=10) as opened:
        started = time.monotonic()
        with contextlib.suppress(httpx2.ReadTimeout):  # or the last 503, if there was no time for another try
            await opened.get_client().get(server.url)
        assert time.monotonic() - started < 1.5
    assert 1 < len(server.calls) < 5


@pytest.mark.alone
async def test_all_redirects_share_one_deadline(pool: Callable[..., HttpxRestClientPool]) -> None:
    in_circles = after(0.2, Reply(302, {"location": "/again"}))
    async with HttpServer(in_circles) as server, pool(total_timeout_seconds=0.5) as opened:
        started = time.monotonic()
        with pytest.raises(httpx2.ReadTimeout, match=r"within 0\.5 s"):
            await opened.get_client().get(server.url, follow_redirects=True)
        assert 0.49 <= time.monotonic() - started < 1
    assert len(server.calls) in {2, 3}


async def test_a_call_that_met_its_deadline_leaves_its_connection_free(
    pool: Callable[..., HttpxRestClientPool], either_server: Callable[[Handler], HttpServer]
) -> None:
    async def handler(call: Call) -> Reply:
        return DRIP if call.path == "/slow" else Reply()

    async with either_server(handler) as server, pool(max_connections=1, pool_timeout_seconds=1) as opened:
        client = opened.get_client()
        for _ in range(3):
            with pytest.raises(httpx2.ReadTimeout):
                await client.get(f"{server.url}/slow", extensions={"total_timeout": 0.15})
        assert (await client.get(server.url)).status_code == 200


async def test_an_answer_read_in_part_leaves_its_connection_free(
    pool: Callable[..., HttpxRestClientPool], either_server: Callable[[Handler], HttpServer]
) -> None:
    async with either_server(always(DRIP)) as server, pool(max_connections=1, pool_timeout_seconds=1) as opened:
        for _ in range(3):
            async with opened.get_client().stream("GET", server.url) as response:
                async for part in response.aiter_bytes():
                    assert part == b"."
                    break
    assert len(server.calls) == 3


# What the calls that share an HTTP/2 connection do to each other: nothing.


async def test_a_body_that_nobody_reads_on_http2_does_not_hold_up_others(
    pool: Callable[..., HttpxRestClientPool], http2_server: Callable[[Handler], HttpServer]
) -> None:
    """httpcore2 2.16 never gives back what such bodies have used of the connection's window of 16 MiB."""

    async def handler(call: Call) -> Reply:
        return Reply(body=b"." * 20_000_000) if call.path == "/big" else Reply()

    async with http2_server(handler) as server, pool(max_connections=1) as opened:
        client = opened.get_client()
        async with client.stream("GET", f"{server.url}/big") as response:
            async for _ in response.aiter_raw():
                break
        for _ in range(2):
            assert (await client.get(server.url)).text == "ok"
    assert server.connections == 1


async def test_bodies_that_arrived_and_were_not_read_on_http2_do_not_hold_up_others(
    pool: Callable[..., HttpxRestClientPool], http2_server: Callable[[Handler], HttpServer]
) -> None:
    async def handler(call: Call) -> Reply:
        if call.path == "/big":
            return Reply(body=b"." * 1_500_000)
        await asyncio.sleep(0.1)
        return Reply()

    async with http2_server(handler) as server, pool(max_connections=1) as opened:
        client = opened.get_client()
        for _ in range(16):
            async with client.stream("GET", f"{server.url}/big"):
                assert (await client.get(server.url)).text == "ok"  # what arrives meanwhile is kept for the other
        assert len((await client.get(f"{server.url}/big")).content) == 1_500_000
    assert server.connections == 1


async def test_a_call_that_timed_out_on_http2_does_not_fail_others(
    pool: Callable[..., HttpxRestClientPool], http2_server: Callable[[Handler], HttpServer]
) -> None:
    """httpcore2 2.16 fails all calls of the connection with the first, however short they have waited themselves."""
    is_waiting = asyncio.Event()

    async def handler(call: Call) -> Reply | Hang:
        if call.path == "/other" and call.attempt > 1:
            return Reply()
        is_waiting.set()
        return Hang()

    async with http2_server(handler) as server, pool(read_timeout_seconds=0.5) as opened:
        client = opened.get_client()
        slow = asyncio.create_task(client.get(f"{server.url}/slow"))
        await is_waiting.wait()
        await asyncio.sleep(0.1)
        assert (await client.get(f"{server.url}/other")).status_code == 200
        with pytest.raises(httpx2.ReadTimeout):
            await slow
    assert [call.path for call in server.calls] == ["/slow", "/other", "/other"]


async def test_a_call_that_timed_out_leaves_its_connection_free(
    pool: Callable[..., HttpxRestClientPool], either_server: Callable[[Handler], HttpServer]
) -> None:
    """httpcore2 2.16 keeps the unusable HTTP/2 connection in the pool until it expires."""
    async with either_server(first(Hang())) as server, pool(max_connections=1, pool_timeout_seconds=1) as opened:
        client = opened.get_client()
        with pytest.raises(httpx2.ReadTimeout):
            await client.get(server.url, timeout=httpx2.Timeout(1, read=0.1))
        assert (await client.get(server.url)).status_code == 200


# Cancelled calls.


# The server's ends of the connections that were cut are left to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning")
async def test_ten_thousand_cancelled_calls_do_not_use_up_the_pool(
    pool: Callable[..., HttpxRestClientPool], either_server: Callable[[Handler], HttpServer]
) -> None:
    """httpx 0.28.1 was stuck for good after this."""
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

    async with either_server(handler) as server, pool(max_connections=10, max_keepalive_connections=10) as opened:
        client = opened.get_client()
        await asyncio.gather(*(cancel_many() for _ in range(20)))
        assert cancelled == 10_000
        responses = await asyncio.gather(*(client.get(f"{server.url}/good") for _ in range(20)))
    assert [response.status_code for response in responses] == [200] * 20
    gc.collect()


async def test_calls_that_timed_out_leave_their_http2_connection_usable(tmp_path: Path) -> None:
    """httpcore2 2.16 never closes their streams: after 100 of them no later call to that origin would succeed."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    async def handler(call: Call) -> Reply | Hang:
        return Reply() if call.path == "/good" else Hang()

    settings = HttpClientSettings(ca_file=tmp_path / "ca.pem")
    async with HttpServer(handler, tls_context(authority, "h2")) as server, HttpxRestClientPool(settings) as opened:
        client = opened.get_client()
        for _ in range(3):
            await asyncio.gather(
                *(client.get(f"{server.url}/hang", extensions={"total_timeout": 0.1}) for _ in range(60)),
                return_exceptions=True,
            )
        good = await asyncio.gather(*(client.get(f"{server.url}/good") for _ in range(20)))
    assert {(response.status_code, response.http_version) for response in good} == {(200, "HTTP/2")}


# Requests that the caller's `Auth` makes


class TokenFirst(httpx2.Auth):
    """Asks for a token before the call itself, as OAuth 2 does."""

    requires_response_body = True

    def __init__(self, url: str) -> None:
        self._url = url

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        answer = yield httpx2.Request("POST", f"{self._url}/token")
        request.headers["authorization"] = f"Bearer {answer.text}"
        yield request


async def test_an_auth_may_make_a_request_of_its_own(pool: Callable[..., HttpxRestClientPool]) -> None:
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


async def test_a_request_that_was_made_without_the_client_is_bounded(pool: Callable[..., HttpxRestClientPool]) -> None:
    async with HttpServer(always(Hang())) as server, pool(read_timeout_seconds=0.3) as open_pool:
        with pytest.raises(httpx2.ReadTimeout):
            await open_pool.get_client().send(httpx2.Request("GET", server.url))
