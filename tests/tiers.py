"""The three tiers of tests: unit, integration and slow (docs/test-runs.md).

A test without a mark is a unit test: it may start no process and open no connection, and this plugin fails it if it
does. A test that uses PostgreSQL is an integration test without a mark; others have `@pytest.mark.integration`.
"""

import os
import sys
import threading
import zlib
from collections import defaultdict
from collections.abc import Iterator

import pytest

_FORBIDDEN = {"os.fork", "os.posix_spawn", "subprocess.Popen", "socket.bind", "socket.connect"}


class Guard:
    """Records forbidden operations of a unit test by Python's audit events. Threads of earlier tests do not count."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        sys.addaudithook(self._record)

    def _record(self, event: str, _: tuple[object, ...]) -> None:
        if event in _FORBIDDEN and threading.current_thread() is threading.main_thread():
            self.seen.add(event)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        self.seen.clear()
        yield
        if self.seen and not is_marked(item):
            pytest.fail(f"a unit test raised {', '.join(sorted(self.seen))}: mark it integration", pytrace=False)


def is_marked(item: pytest.Item) -> bool:
    """Return whether the test is in the tier integration or slow."""
    return any(item.get_closest_marker(name) for name in ("integration", "slow"))


def uses_postgresql(item: pytest.Item) -> bool:
    """Return whether the test has the fixture postgresql, or a parameter of this name."""
    parameters = (
        item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
    )
    return "postgresql" in (*getattr(item, "fixturenames", ()), *map(str, parameters))


def one_case_of_each(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return one case of each test. Tests differ in the choice, but every run makes the same one."""
    cases: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item)
    return [group[zlib.crc32(name.encode()) % len(group)] for name, group in cases.items()]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--one-case", action="store_true", help="run one case of each parametrized slow test")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if uses_postgresql(item):
            item.add_marker("integration")
    if config.getoption("--one-case"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        left_out = {*slow} - {*one_case_of_each(slow)}
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_CURRENT_TEST" not in os.environ:  # A run that a test started belongs to that test.
        config.pluginmanager.register(Guard())
