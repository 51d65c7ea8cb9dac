"""The circuit breaker: when it opens, who tries, and what a call meets."""

import asyncio
import time
from collections.abc import Callable

import httpx2
import pytest

from kernel import circuits
from kernel.circuits import Circuit
from kernel.http_client import CircuitOpen, HttpxRestClientPool
from kernel.settings import HttpClientSettings
from tests.kernel.https_server import Call, HttpServer, Reply


@pytest.fixture
def circuit() -> Circuit:
    return Circuit(open_seconds=0.05, most_calls=10)


def note(circuit: Circuit, *ends: bool) -> None:
    for ok in ends:
        assert circuit.admits()
        circuit.note(ok=ok)


def test_a_few_failures_open_nothing(circuit: Circuit) -> None:
    note(circuit, *[False] * 4)
    assert circuit.state == "closed"


def test_failures_among_many_successes_open_nothing(circuit: Circuit) -> None:
    note(circuit, *[True, True, False] * 20)
    assert circuit.state == "closed"


def test_half_of_the_last_calls_open_it(circuit: Circuit) -> None:
    note(circuit, *[True] * 20, *[False] * 10)
    assert circuit.state == "open"
    assert not circuit.admits()


def test_failures_of_long_ago_do_not_count(circuit: Circuit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuits, "_WINDOW_SECONDS", 0.01)
    note(circuit, *[False] * 4)
    time.sleep(0.02)
    note(circuit, False)
    assert circuit.state == "closed"


@pytest.fixture
def waited(circuit: Circuit) -> Circuit:
    """One that was open long enough."""
    note(circuit, *[False] * 5)
    time.sleep(0.06)
    return circuit


def test_one_call_tries_and_the_others_wait_for_its_end(waited: Circuit) -> None:
    assert waited.state == "half-open"
    assert [waited.admits() for _ in range(3)] == [True, False, False]


def test_a_trial_that_succeeds_closes_it(waited: Circuit) -> None:
    note(waited, True, *[False] * 4)
    assert waited.state == "closed"


def test_a_trial_that_fails_opens_it_again(waited: Circuit) -> None:
    note(waited, False)
    assert not waited.admits()


def test_a_trial_that_is_given_up_leaves_it_to_the_next(waited: Circuit) -> None:
    assert waited.admits()
    waited.forget()
    assert waited.admits()


def test_in_the_long_run_one_call_in_five_is_tried_again(circuit: Circuit) -> None:
    retries = 0
    for _ in range(500):
        note(circuit, True)
        retries += circuit.takes_retry()
    assert 100 <= retries <= 111


def pool(**changes: float) -> HttpxRestClientPool:
    return HttpxRestClientPool(HttpClientSettings(**{"backoff_seconds": 0.001, "circuit_open_seconds": 0.2} | changes))  # type: ignore[arg-type]  # numbers, all of them


def answering(status: Callable[[], int]) -> HttpServer:
    async def handler(_call: Call) -> Reply:
        return Reply(status(), body=b"x" * 1000)

    return HttpServer(handler)


async def test_an_open_circuit_fails_at_once_and_closes_when_the_upstream_is_well() -> None:
    status = 503
    async with answering(lambda: status) as server, pool() as opened:
        client = opened.get_client()
        for _ in range(5):
            assert (await client.get(server.url)).status_code == 503
        asked = len(server.calls)
        with pytest.raises(CircuitOpen, match="asked again in"):
            await client.get(server.url)
        assert len(server.calls) == asked
        [found] = opened.circuits.values()
        assert found.state == "open"
        status = 200
        await asyncio.sleep(found.opens_in() + 0.01)
        assert (await client.get(server.url)).status_code == 200
        assert found.state == "closed"


async def test_one_upstream_is_no_other() -> None:
    async with answering(lambda: 503) as bad, answering(lambda: 200) as good, pool() as opened:
        for _ in range(5):
            await opened.get_client().get(bad.url)
        assert (await opened.get_client().get(good.url)).status_code == 200


async def test_an_upstream_holds_no_more_than_its_share() -> None:
    async with answering(lambda: 200) as server, pool(max_calls_per_origin=1, pool_timeout_seconds=0.1) as opened:
        client = opened.get_client()
        async with client.stream("GET", server.url):
            with pytest.raises(httpx2.PoolTimeout, match="all its places"):
                await client.get(server.url)
        assert (await client.get(server.url)).status_code == 200


async def test_an_answer_that_is_too_large_is_not_read() -> None:
    async with answering(lambda: 200) as server, pool(max_answer_bytes=999) as opened:
        with pytest.raises(httpx2.RemoteProtocolError, match="HTTP_CLIENT_MAX_ANSWER_BYTES"):
            await opened.get_client().get(server.url)
