"""The circuit breaker: when it opens, which call is the trial, and the results of calls."""

import asyncio
import contextlib
from collections.abc import Callable

import httpx2
import pytest

from kernel.ext.http_resilience import circuit_breaker as circuits
from kernel.ext.http_resilience.circuit_breaker import Circuit
from kernel.http_client import CircuitOpen, HttpxRestClientPool
from tests.core.https_server import Call, HttpServer, Reply
from tests.core.waiting import until_true
from tests.http_resilience.pools import circuits_of, retrying_pool


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(circuits, "time", clock)
    return clock


@pytest.fixture
def circuit() -> Circuit:
    return Circuit(open_seconds=0.05, most_calls=10)


def note(circuit: Circuit, *ends: bool) -> None:
    for ok in ends:
        circuit.note(admitted(circuit), ok=ok)


def admitted(circuit: Circuit) -> int:
    epoch = circuit.admits()
    assert epoch is not None
    return epoch


def test_a_few_failures_do_not_open_it(circuit: Circuit) -> None:
    note(circuit, *[False] * 4)
    assert circuit.state == "closed"


def test_failures_among_many_successes_do_not_open_it(circuit: Circuit) -> None:
    note(circuit, *[True, True, False] * 20)
    assert circuit.state == "closed"


def test_half_of_the_last_calls_open_it(circuit: Circuit) -> None:
    note(circuit, *[True] * 20, *[False] * 10)
    assert circuit.state == "open"
    assert circuit.admits() is None


def test_old_failures_do_not_count(circuit: Circuit, clock: Clock) -> None:
    note(circuit, *[False] * 4)
    clock.seconds += circuits._WINDOW_SECONDS + 1
    note(circuit, False)
    assert circuit.state == "closed"


@pytest.fixture
def waited(circuit: Circuit, clock: Clock) -> Circuit:
    """Return a circuit that was open long enough for a trial."""
    note(circuit, *[False] * 5)
    clock.seconds += 0.06
    return circuit


def test_one_call_is_the_trial_and_others_are_refused_until_its_end(waited: Circuit) -> None:
    assert waited.state == "half-open"
    assert [waited.admits() is None for _ in range(3)] == [False, True, True]


def test_a_trial_that_succeeds_closes_it(waited: Circuit) -> None:
    note(waited, True, *[False] * 4)
    assert waited.state == "closed"


def test_a_trial_that_fails_opens_it_again(waited: Circuit) -> None:
    note(waited, False)
    assert waited.admits() is None


def test_after_an_abandoned_trial_the_next_call_is_the_trial(waited: Circuit) -> None:
    waited.forget(admitted(waited))
    assert waited.admits() is not None


def opened(circuit: Circuit) -> list[int]:
    """Open it with the first of ten calls; the others are still in progress."""
    old = [admitted(circuit) for _ in range(10)]
    for epoch in old[:5]:
        circuit.note(epoch, ok=False)
    return old[5:]


def test_calls_from_before_it_opened_neither_close_it_nor_keep_it_open(circuit: Circuit, clock: Clock) -> None:
    failed, succeeded, *_ = opened(circuit)
    opens_in = circuit.opens_in()
    clock.seconds += 0.03
    circuit.note(failed, ok=False)
    circuit.note(succeeded, ok=True)
    assert 0 < circuit.opens_in() < opens_in - 0.02


def test_the_end_of_an_old_call_starts_no_second_trial(circuit: Circuit, clock: Clock) -> None:
    failed, succeeded, given_up, *_ = opened(circuit)
    clock.seconds += 0.06
    assert circuit.admits() is not None
    circuit.forget(given_up)
    assert circuit.admits() is None
    circuit.note(failed, ok=False)
    circuit.note(succeeded, ok=True)
    assert (circuit.state, circuit.admits()) == ("half-open", None)


def test_old_calls_do_not_open_a_circuit_that_a_trial_has_closed(circuit: Circuit, clock: Clock) -> None:
    old = opened(circuit)
    clock.seconds += 0.06
    note(circuit, True)
    for epoch in old:
        circuit.note(epoch, ok=False)
    assert circuit.state == "closed"


def test_in_the_long_run_one_call_in_five_is_tried_again(circuit: Circuit) -> None:
    retries = 0
    for _ in range(500):
        note(circuit, True)
        retries += circuit.takes_retry()
    assert 100 <= retries <= 111


def pool(**changes: float) -> HttpxRestClientPool:
    return retrying_pool(**{"backoff_seconds": 0.001, "circuit_open_seconds": 0.2} | changes)


def answering(status: Callable[[], int]) -> HttpServer:
    async def handler(_call: Call) -> Reply:
        return Reply(status(), body=b"x" * 1000)

    return HttpServer(handler)


@pytest.mark.integration
async def test_an_open_circuit_fails_at_once_and_closes_when_the_upstream_recovers(clock: Clock) -> None:
    status = 503
    async with answering(lambda: status) as server, pool() as opened:
        client = opened.get_client()
        for _ in range(5):
            assert (await client.get(server.url)).status_code == 503
        asked = len(server.calls)
        with pytest.raises(CircuitOpen, match="asked again in"):
            await client.get(server.url)
        assert len(server.calls) == asked
        [found] = circuits_of(opened).values()
        assert found.state == "open"
        status = 200
        clock.seconds += found.opens_in()
        assert (await client.get(server.url)).status_code == 200
        assert found.state == "closed"


@pytest.mark.integration
@pytest.mark.parametrize("late", ["heads", "bodies"])
async def test_a_recovered_upstream_is_called_again_while_old_calls_still_fail(late: str, clock: Clock) -> None:
    may_end = asyncio.Event()

    async def handler(call: Call) -> Reply:
        if call.path == "/bodies":
            return Reply(body=b"." * 200, drip_seconds=0.05)
        if call.path == "/heads":
            await may_end.wait()
        return Reply(503 if call.method == "POST" else 200)

    async with HttpServer(handler) as server, pool() as opened, asyncio.TaskGroup() as group:
        client = opened.get_client()

        async def fail() -> None:
            limit = {"total_timeout": 1.5} if late == "bodies" else {}
            with contextlib.suppress(httpx2.ReadTimeout):
                await client.post(f"{server.url}/{late}", extensions=limit)

        old = [group.create_task(fail()) for _ in range(10)]
        await until_true(lambda: len(server.calls) == 10)
        await asyncio.gather(*(client.post(server.url) for _ in range(10)))
        [found] = circuits_of(opened).values()
        assert found.state == "open"
        clock.seconds += found.opens_in()
        assert (await client.get(server.url)).status_code == 200
        assert not any(one.done() for one in old)
        may_end.set()
        await asyncio.wait(old)
        assert found.state == "closed"


@pytest.mark.integration
async def test_upstreams_have_separate_circuits() -> None:
    async with answering(lambda: 503) as bad, answering(lambda: 200) as good, pool() as opened:
        for _ in range(5):
            await opened.get_client().get(bad.url)
        assert (await opened.get_client().get(good.url)).status_code == 200


@pytest.mark.integration
async def test_an_upstream_uses_no_more_than_its_share_of_connections() -> None:
    async with answering(lambda: 200) as server, pool(max_calls_per_origin=1, pool_timeout_seconds=0.1) as opened:
        client = opened.get_client()
        async with client.stream("GET", server.url):
            with pytest.raises(httpx2.PoolTimeout, match="all its places"):
                await client.get(server.url)
        assert (await client.get(server.url)).status_code == 200
