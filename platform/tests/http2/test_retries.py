"""Retries of calls over HTTP/2."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from kernel.ext.http2.extension import install
from kernel.http_client import HttpxRestClientPool
from tests.core.https_server import Call, Handler, Hang, HttpServer, Reply
from tests.http_resilience.pools import retrying_pool
from tests.http_resilience.test_limits import (  # noqa: F401  # pytest runs them here with the fixtures below
    test_a_slow_body_ends_at_the_deadline,
    test_an_answer_that_never_pauses_ends_at_the_deadline,
)
from tests.http_resilience.test_retries import (  # noqa: F401  # as above
    test_a_slow_failed_response_does_not_delay_the_next_try,
    test_both_protocols_are_retried_equally,
)

pytestmark = pytest.mark.integration


@pytest.fixture
def pool(ca_file: Path) -> Callable[..., HttpxRestClientPool]:
    """Return a function that makes a pool with HTTP/2 and retries."""

    def make(**changes: object) -> HttpxRestClientPool:
        made = retrying_pool(ca_file=ca_file, **{"backoff_seconds": 0.001, "max_backoff_seconds": 0.01} | changes)
        install(made)
        return made

    return make


async def test_a_call_that_timed_out_on_http2_does_not_fail_others(
    pool: Callable[..., HttpxRestClientPool], tls_server: Callable[[Handler], HttpServer]
) -> None:
    """httpcore2 2.16 fails all calls of the connection together with the first, even those that have just started."""
    is_waiting = asyncio.Event()

    async def handler(call: Call) -> Reply | Hang:
        if call.path == "/other" and call.attempt > 1:
            return Reply()
        is_waiting.set()
        return Hang()

    async with tls_server(handler) as server, pool(read_timeout_seconds=30) as opened:
        client = opened.get_client()
        other = asyncio.create_task(client.get(f"{server.url}/other"))
        await is_waiting.wait()
        with pytest.raises(httpx2.ReadTimeout):
            await client.get(f"{server.url}/slow", timeout=httpx2.Timeout(30, read=0.1))
        assert (await other).status_code == 200
    assert [call.path for call in server.calls] == ["/other", "/slow", "/other"]
