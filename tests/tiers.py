"""The three tiers of tests: unit, integration and slow (docs/testing.md).

A test without a mark is a unit test: it starts no process and opens no connection.
A test that uses PostgreSQL is an integration test without being marked; others have `@pytest.mark.integration`.
"""

import zlib
from collections import defaultdict

import pytest


def uses_postgresql(item: pytest.Item) -> bool:
    """Return whether the test has the fixture postgresql, or a parameter of this name."""
    parameters = (
        item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
    )
    return "postgresql" in (*getattr(item, "fixturenames", ()), *map(str, parameters))


def one_case_of_each(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return one case of each test. Tests differ in which; every run chooses the same."""
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
