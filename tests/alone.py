"""`@pytest.mark.alone`: no other test of this checkout runs beside this one, also with `pytest -n`.

A test that asserts a limit of time, with servers and clients of its own, would measure the load of a test on the other
core. Every test takes a lock on a file, shared or exclusive. While it waits for that lock, it holds a second lock, so
that a test that waits for the exclusive lock gets its turn. Marked tests run last, when few other tests remain to wait
for them. The longest of all tests, those of the whole project and of servers, come first. Tests wait more than they
compute, so `-n auto` starts one process more than there are cores.

The garbage collector runs between tests and, within a test, examines only new objects. Late in a run a full collection
takes a second, during which the clients, servers and proxies of a test would stop.
"""

import fcntl
import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

_ROOM = Path(__file__)
_DOOR = _ROOM.with_name("conftest.py")
_LONGEST = [
    _ROOM.parents[1] / place for place in ("tests", "tests/faults", "platform/tests/brokers", "platform/tests/server")
]
_TESTS_PER_COLLECTION = 150


class Turns:
    """Lets each test wait for its turn, and excludes existing objects from garbage collection during the test."""

    def __init__(self) -> None:
        self._count = 0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: (_is_alone(item), item.path.parent not in _LONGEST))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._count += 1
        if self._count % _TESTS_PER_COLLECTION == 0:
            gc.collect()
        with _ROOM.open() as room:
            with _DOOR.open() as door:
                fcntl.flock(door, fcntl.LOCK_EX)
                fcntl.flock(room, fcntl.LOCK_EX if _is_alone(item) else fcntl.LOCK_SH)
            gc.freeze()
            try:
                return (yield)
            finally:
                gc.unfreeze()


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    return (yield) + 1


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "alone: no other test may run beside this one, for it puts bounds on time")
    if "PYTEST_CURRENT_TEST" not in os.environ:  # A run that a test started belongs to the turn of that test.
        config.pluginmanager.register(Turns())
