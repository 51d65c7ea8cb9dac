"""Which calls the HTTP client repeats, when, and how often, against a real server."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import httpx2
import pytest

from kernel.http_client import HttpxRestClientPool
from tests.core.https_server import Call, Drop, Handler, Hang, HttpServer, Reply
from tests.core.upstreams import (
    DRIP,
    KEY,
    RETRIED_FAILURES,
    Connects,
    after,
    always,
    first,
    gap,
    in_parts,
    read_late,
    read_slowly,
    read_streamed,
    shown,
)
from tests.http_resilience.pools import circuits_of, retrying_pool

pytestmark = pytest.mark.integration


@pytest.fixture
def pool(ca_file: Path) -> Callable[..., HttpxRestClientPool]:
    """Return a pool that trusts the servers of these tests and makes short pauses."""
    return lambda **changes: retrying_pool(
        ca_file=ca_file, **{"backoff_seconds": 0.001, "max_backoff_seconds": 0.01} | changes
    )


@pytest.mark.parametrize("failure", RETRIED_FAILURES, ids=shown)
@pytest.mark.parametrize(
    ("method", "headers"),
    [*((method, {}) for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")), ("POST", KEY), ("PATCH", KEY)],
    ids=shown,
)
async def test_repeatable_requests_are_retried(
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
async def test_other_requests_are_sent_once(
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
async def test_a_response_that_a_retry_would_not_change_is_returned_at_once(
    pool: Callable[..., HttpxRestClientPool], status: int
) -> None:
    async with HttpServer(first(Reply(status, body=b""))) as server, pool() as opened:
        assert (await opened.get_client().get(server.url)).status_code == status
    assert len(server.calls) == 1


@pytest.mark.parametrize("failure", [Reply(503), Drop()], ids=shown)
async def test_both_protocols_are_retried_equally(
    pool: Callable[..., HttpxRestClientPool],
    tls_server: Callable[[Handler], HttpServer],
    failure: Reply | Drop,
) -> None:
    async with tls_server(first(failure)) as server, pool() as opened:
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


async def test_a_request_to_a_slow_upstream_is_not_retried(pool: Callable[..., HttpxRestClientPool]) -> None:
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


async def test_a_broken_handshake_is_retried_even_for_a_post(
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


async def test_a_failed_response_is_read_so_that_the_next_try_uses_its_connection(
    pool: Callable[..., HttpxRestClientPool],
) -> None:
    async with HttpServer(first(Reply(503, body=b"." * 50_000))) as server, pool() as opened:
        assert (await opened.get_client().get(server.url)).status_code == 200
    assert (len(server.calls), server.connections) == (2, 1)


async def test_a_slow_failed_response_does_not_delay_the_next_try(
    pool: Callable[..., HttpxRestClientPool], tls_server: Callable[[Handler], HttpServer]
) -> None:
    async with tls_server(first(Reply(503, body=b"." * 200, drip_seconds=0.05))) as server, pool() as opened:
        assert (await opened.get_client().get(server.url)).status_code == 200
    assert gap(server) < 5  # The whole response takes ten seconds.


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
        then = int(now + 1.3)  # A date has whole seconds: 0.3 to 1.3 from now.
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
async def test_an_invalid_or_past_retry_after_is_ignored(pool: Callable[..., HttpxRestClientPool], value: str) -> None:
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


@pytest.mark.parametrize(
    ("read", "reply", "state"),
    [
        (read_slowly, Reply(body=b"." * 3_000_000), "closed"),
        (read_late, Reply(body=b"." * 3_000_000), "closed"),
        (read_streamed, DRIP, "open"),
    ],
    ids=["slow-reader", "late-reader", "slow-upstream"],
)
async def test_a_deadline_that_the_reader_missed_does_not_count_against_the_upstream(
    pool: Callable[..., HttpxRestClientPool], read: Callable[..., Awaitable[None]], reply: Reply, state: str
) -> None:
    async with HttpServer(always(reply)) as server, pool(total_timeout_seconds=0.4) as opened:
        reads = (read(opened.get_client(), server.url) for _ in range(12))
        ends = await asyncio.gather(*reads, return_exceptions=True)
        assert {type(end) for end in ends} == {httpx2.ReadTimeout}
        [circuit] = circuits_of(opened).values()
        assert circuit.state == state


@pytest.mark.alone
async def test_all_tries_share_one_deadline(pool: Callable[..., HttpxRestClientPool]) -> None:
    slow_failure = after(0.2, Reply(503))
    async with HttpServer(slow_failure) as server, pool(total_timeout_seconds=0.5, max_attempts=10) as opened:
        started = time.monotonic()
        with contextlib.suppress(httpx2.ReadTimeout):  # Or the last 503, if there was no time for another try.
            await opened.get_client().get(server.url)
        assert time.monotonic() - started < 1.5
    assert 1 < len(server.calls) < 5
