"""Upstreams for tests of the HTTP client, and ways to read from them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme

from tests.core.https_server import Call, Drop, Handler, Hang, HttpServer, Reply, tls_context

RETRIED_FAILURES = [Reply(429), Reply(502), Reply(503), Reply(504), Drop()]
KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
DRIP = Reply(body=b"." * 200, drip_seconds=0.05)  # Ten seconds without a deadline.


def always(todo: Reply | Drop | Hang) -> Handler:
    async def handler(call: Call) -> Reply | Drop | Hang:
        return todo

    return handler


def first(failure: Reply | Drop | Hang) -> Handler:
    """Fail once, then succeed."""

    async def handler(call: Call) -> Reply | Drop | Hang:
        return failure if call.attempt == 1 else Reply()

    return handler


def after(seconds: float, reply: Reply) -> Handler:
    async def handler(call: Call) -> Reply:
        await asyncio.sleep(seconds)
        return reply

    return handler


def gap(server: HttpServer) -> float:
    """Return the seconds between the only two calls."""
    one, two = server.calls
    return two.at - one.at


def shown(value: object) -> str:
    """Return the name of a parameter in the test's id."""
    match value:
        case Reply(status=status):
            return str(status)
        case Drop():
            return "dropped"
        case dict():
            return "with-key" if value else "without-key"
    return str(value)


class Connects:
    """Counts the attempts to connect, as httpx2 itself reports them, and may run code before one."""

    def __init__(self, before: Callable[[int], None] = lambda attempt: None) -> None:
        self.count = 0
        self._before = before

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.started":
            self.count += 1
            self._before(self.count)


async def in_parts() -> AsyncIterator[bytes]:
    yield b"one"
    yield b"two"


async def read_all(client: httpx2.AsyncClient, url: str, **options: Any) -> None:
    await client.get(url, **options)


async def read_streamed(client: httpx2.AsyncClient, url: str, **options: Any) -> None:
    async with client.stream("GET", url, **options) as response:
        assert response.status_code == 200
        async for _ in response.aiter_bytes():
            pass


async def read_slowly(client: httpx2.AsyncClient, url: str) -> None:
    async with client.stream("GET", url) as response:
        async for _ in response.aiter_bytes(100_000):
            await asyncio.sleep(0.05)


async def read_late(client: httpx2.AsyncClient, url: str) -> None:
    async with client.stream("GET", url) as response:
        await asyncio.sleep(0.5)
        await response.aread()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def tls_server(authority: trustme.CA) -> Callable[[Handler], HttpServer]:
    """Return a server that offers HTTP/1.1 over TLS. platform/tests/http2 replaces it by one that offers HTTP/2."""
    return lambda handler: HttpServer(handler, tls_context(authority, "http/1.1"))
