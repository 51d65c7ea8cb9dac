"""One server of each kind for all tests of a process; each test uses names of its own on it."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from kernel.ext.messaging.brokers.broker import Broker
from tests.brokers.servers import Nats, NewestNats, RabbitMQ, Redis, Server, require

KINDS: dict[str, type[Server]] = {"nats": Nats, "newest nats": NewestNats, "rabbitmq": RabbitMQ, "redis": Redis}


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """Return the server of a kind, which starts at its first use."""
    running: dict[str, Server] = {}
    with ExitStack() as stack:

        def server(kind: str) -> Server:
            if kind not in running:
                require(KINDS[kind])
                running[kind] = KINDS[kind](tmp_path_factory.mktemp(kind))
                stack.callback(running[kind].close)
                running[kind].start()
            return running[kind]

        yield server


@pytest.fixture(params=list(KINDS))
def server(request: pytest.FixtureRequest, servers: Callable[[str], Server]) -> Server:
    return servers(request.param)


@pytest.fixture
def prefix() -> str:
    """Return the prefix of all names that a test creates on a broker."""
    return f"test{secrets.token_hex(4)}"


@pytest.fixture
async def new_broker(server: Server, prefix: str) -> AsyncIterator[Callable[..., Broker]]:
    """Create brokers; stop them afterwards and assert that no task of them is left."""
    made: list[Broker] = []

    def new(**options: Any) -> Broker:
        made.append(Broker(options.pop("url", server.url), prefix=prefix, **{"lease_seconds": 3, **options}))
        return made[-1]

    yield new
    for broker in made:
        await broker.stop()
    ends_at = time.monotonic() + 1
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        assert time.monotonic() < ends_at, others
        await asyncio.sleep(0)  # Cancelled tasks need some turns of the event loop to end.
