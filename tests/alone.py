"""`@pytest.mark.alone`: no other test of this checkout runs beside this one, also with `pytest -n`.

A test that puts a bound on time, with servers and callers of its own, shows nothing while a neighbour has the other
core. All tests take two locks, on files that exist anyway: the room, with others or alone, and the door, for as long as
they wait for the room, so that who is alone gets a turn. They come last, when nobody has much left to do that they
would have to wait for; and those that take longest first: of the whole project, and of servers. Such tests wait for
others more than they compute, so `-n auto` is one process more than there are cores.

Python looks for garbage between tests, and within one only in what is new: late in a run, to look through all that is
there takes a second, in which a test's callers, servers and proxies stand still.
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
    """Lets each test wait for its turn and leaves others' garbage out of it, before its own time begins to count."""

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
    if "PYTEST_CURRENT_TEST" not in os.environ:  # a run that a test started has its turn already
        config.pluginmanager.register(Turns())
