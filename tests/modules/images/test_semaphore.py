"""The semaphore that serves callers in turns."""

import asyncio

import pytest

from modules.images.semaphore import RoundRobinSemaphore, TooManyWaiting


class Callers:
    """Requests that hold their slot until `end` is called."""

    def __init__(self, semaphore: RoundRobinSemaphore) -> None:
        self._semaphore = semaphore
        self.order: list[str] = []
        self._may_end: dict[str, asyncio.Event] = {}

    async def send(self, name: str) -> asyncio.Task[None]:
        """Send a request of the caller that the first letter names."""
        self._may_end[name] = asyncio.Event()
        task = asyncio.create_task(self._request(name))
        await settled()
        return task

    async def end(self, name: str) -> None:
        self._may_end[name].set()
        await settled()

    async def _request(self, name: str) -> None:
        async with self._semaphore.slot(name[0]):
            self.order.append(name)
            await self._may_end[name].wait()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_callers_alternate_however_many_requests_each_has_sent() -> None:
    callers = Callers(RoundRobinSemaphore(1, 20))
    for name in ("a1", "a2", "a3", "a4", "b1", "b2", "c1"):
        await callers.send(name)
    for _ in range(7):
        await callers.end(callers.order[-1])
    assert callers.order == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


async def test_at_most_the_limit_runs_at_once() -> None:
    callers = Callers(RoundRobinSemaphore(2, 20))
    for name in ("a1", "a2", "a3"):
        await callers.send(name)
    assert callers.order == ["a1", "a2"]
    await callers.end("a1")
    assert callers.order == ["a1", "a2", "a3"]


async def test_a_request_too_many_is_refused_when_its_caller_has_the_most() -> None:
    callers = Callers(RoundRobinSemaphore(1, 2))
    for name in ("a1", "a2", "a3"):
        await callers.send(name)
    with pytest.raises(TooManyWaiting):
        await (await callers.send("a4"))


async def test_a_request_too_many_displaces_the_newest_of_the_caller_with_the_most() -> None:
    callers = Callers(RoundRobinSemaphore(1, 3))
    sent = {name: await callers.send(name) for name in ("a1", "a2", "a3", "a4", "b1")}
    with pytest.raises(TooManyWaiting):
        await sent["a4"]
    for _ in range(4):
        await callers.end(callers.order[-1])
    assert callers.order == ["a1", "a2", "b1", "a3"]


async def test_callers_with_equal_shares_do_not_displace_each_other() -> None:
    callers = Callers(RoundRobinSemaphore(1, 2))
    sent = {name: await callers.send(name) for name in ("a1", "b1", "c1", "d1", "c2")}
    for name in ("d1", "c2"):
        with pytest.raises(TooManyWaiting):
            await sent[name]


async def test_without_room_to_wait_a_request_is_refused_at_once() -> None:
    callers = Callers(RoundRobinSemaphore(1, 0))
    await callers.send("a1")
    with pytest.raises(TooManyWaiting):
        await (await callers.send("b1"))


@pytest.mark.parametrize("cancelled", ["a1", "a2", "b1"])
async def test_a_cancelled_request_frees_its_slot_for_the_next(cancelled: str) -> None:
    callers = Callers(RoundRobinSemaphore(1, 20))
    sent = {name: await callers.send(name) for name in ("a1", "a2", "b1", "c1")}
    sent[cancelled].cancel()
    await settled()
    for _ in range(4):
        await callers.end(callers.order[-1])
    assert set(callers.order) | {cancelled} == {"a1", "a2", "b1", "c1"}
    await callers.send("d1")
    assert callers.order[-1] == "d1"


async def test_a_request_that_is_cancelled_as_it_gets_a_slot_frees_it_for_the_next() -> None:
    callers = Callers(RoundRobinSemaphore(1, 20))
    sent = {name: await callers.send(name) for name in ("a1", "a2", "a3")}
    callers._may_end["a1"].set()
    while sent["a1"].done() is False:
        await asyncio.sleep(0)
        if sent["a1"].done():
            sent["a2"].cancel()
    await settled()
    assert callers.order == ["a1", "a3"]
