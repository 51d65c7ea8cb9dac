"""The tests of events run in three places: in this process, against one process, and against two over a faulty network.

A test that inspects the application (its fakes, its settings, its statements) runs in this process only.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy.engine import make_url

from kernel.application import Application
from kernel.testing.booting import Choice, talking_to
from tests.modules.events.processes import Deployment, deploy

_LOOKS_INSIDE = frozenset({"application", "fakes", "project", "sent", "settings"})

# Processes of their own are slow. Tests about them (test_events_apart.py) select a place by their mark.
_ELSEWHERE = [pytest.param(place, marks=pytest.mark.slow) for place in ("one-process", "two-processes")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test in all three places, unless it has a mark or inspects the application."""
    chosen = [mark for mark in metafunc.definition.iter_markers("parametrize") if mark.args[0] == "place"]
    if "place" in metafunc.fixturenames and not chosen:
        stays = _LOOKS_INSIDE & set(metafunc.fixturenames) or metafunc.definition.get_closest_marker("boots")
        metafunc.parametrize("place", ["here"] if stays else ["here", *_ELSEWHERE], indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> str:
    """Return the place of the application under test."""
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="session")
def deployments(
    request: pytest.FixtureRequest, root: Path, migrated: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str, str], Deployment]]:
    """Start the processes of a place and a kind of database at their first use; they serve all tests."""
    started: dict[tuple[str, str], Deployment] = {}

    def deployment(place: str, kind: str) -> Deployment:
        if (place, kind) not in started:
            folder = tmp_path_factory.mktemp(f"{place}-{kind}", numbered=False)
            server = request.getfixturevalue("postgresql") if kind == "postgresql" else None
            url = migrated(Choice(root), kind)
            started[place, kind] = deploy(root, folder, url, server, apart=place == "two-processes")
        return started[place, kind]

    yield deployment
    for one in started.values():
        one.stop()


@pytest.fixture
def deployment(place: str, database_url: str, deployments: Callable[[str, str], Deployment]) -> Deployment:
    """Return the processes under test, with empty tables."""
    one = deployments(place, make_url(database_url).get_backend_name())
    one.empty()
    return one


@pytest.fixture
async def client_here(application: Application) -> AsyncIterator[httpx2.AsyncClient]:
    """Provide a client of the application in this process."""
    async with talking_to(application) as client:
        yield client


@pytest.fixture
async def client_there(deployment: Deployment) -> AsyncIterator[httpx2.AsyncClient]:
    """Provide a client of the process that has the module."""

    class ByPath(httpx2.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            is_images = request.url.path.startswith("/api/v1/images")
            process = deployment.images if is_images else deployment.events
            request.url = request.url.copy_with(host="127.0.0.1", port=process.port)
            return await super().handle_async_request(request)

    async with httpx2.AsyncClient(transport=ByPath(), base_url="http://test", timeout=30) as client:
        yield client


@pytest.fixture
def client(request: pytest.FixtureRequest, place: str, database_url: str) -> httpx2.AsyncClient:
    """Provide a client of the application under test in any place."""
    chosen: httpx2.AsyncClient = request.getfixturevalue("client_here" if place == "here" else "client_there")
    return chosen
