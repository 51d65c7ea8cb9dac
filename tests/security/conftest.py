"""A Redis server for these tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers.servers import Redis, require


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    require(Redis)
    folder = tmp_path / "redis"
    folder.mkdir()
    server = Redis(folder)
    server.start()
    yield server
    server.close()
