"""No caller delays the others by slow uploads (OWASP API4:2023)."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from socket import create_connection, socket

import httpx2
import pytest

from kernel.application import Application
from kernel.testing import Callers
from tests.core.project import running_project
from tests.modules.images.pictures import picture
from tests.security.forms import IMAGES, upload
from tests.security.serving import Served, request, served

ROUTER = """
from fastapi import APIRouter, Request
from kernel import public

router = APIRouter(dependencies=[public])

@router.post("")
async def send(request: Request) -> int:
    return len(await request.body())

@router.get("")
async def read() -> int:
    return 1
"""
FILES = {"things/router.py": ROUTER}
PATH = "/api/v1/things"
# A caller may have half of six.
SHARE = {"SERVER_MAX_CONCURRENT_REQUESTS": "6", "RATE_LIMIT_CALLER_SHARE_PERCENT": "50"}


class SlowUploads:
    """Uploads of one caller that end when the test ends them."""

    def __init__(self, client: httpx2.AsyncClient, headers: dict[str, str]) -> None:
        self._client = client
        self._headers = headers
        self._may_end = asyncio.Event()
        self.sent: list[asyncio.Task[httpx2.Response]] = []

    async def send(self, count: int) -> list[int]:
        """Begin this many uploads; return the statuses of the refused ones."""
        begun = [asyncio.create_task(self._upload()) for _ in range(count)]
        self.sent += begun
        for _ in range(100):
            await asyncio.sleep(0)
        return [task.result().status_code for task in begun if task.done()]

    async def end(self) -> list[int]:
        """End the uploads in progress; return the statuses of all."""
        self._may_end.set()
        return [answer.status_code for answer in await asyncio.gather(*self.sent)]

    async def _upload(self) -> httpx2.Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"a"
            await self._may_end.wait()

        return await self._client.post(PATH, content=body(), headers=self._headers)


@asynccontextmanager
async def at(application: Application, *addresses: str) -> AsyncIterator[list[httpx2.AsyncClient]]:
    """Return a client at each address."""
    async with AsyncExitStack() as stack:
        transports = [httpx2.ASGITransport(application, client=(address, 1)) for address in addresses]
        clients = [httpx2.AsyncClient(transport=one, base_url="http://test") for one in transports]
        yield [await stack.enter_async_context(client) for client in clients]


async def test_a_caller_has_a_share_of_the_requests_with_a_body(tmp_path: Path) -> None:
    async with (
        running_project(tmp_path, FILES, SHARE) as (application, _),
        at(application, "192.0.2.1", "192.0.2.2") as (first, second),
    ):
        uploads = SlowUploads(first, {})
        assert await uploads.send(5) == [429, 429]
        assert (await first.get(PATH)).status_code == 200, "requests without a body must not count"
        assert (await second.post(PATH, content=b"abc")).json() == 3
        assert sorted(await uploads.end()) == [200, 200, 200, 429, 429]
        assert (await first.post(PATH, content=b"abc")).status_code == 200


async def test_the_refusal_has_retry_after_and_closes_an_unread_body(tmp_path: Path) -> None:
    async with (
        running_project(tmp_path, FILES, {**SHARE, "RATE_LIMIT_CALLER_SHARE_PERCENT": "1"}) as (application, _),
        at(application, "192.0.2.1") as (client,),
    ):
        uploads = SlowUploads(client, {})
        await uploads.send(2)
        refused = uploads.sent[1].result()
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.headers["connection"] == "close"
        assert refused.json()["detail"] == "You have 1 requests with a body in work. Wait for one of them to end."
        await uploads.end()


async def test_callers_behind_one_address_are_distinguished_by_their_tokens(tmp_path: Path) -> None:
    async with running_project(tmp_path, FILES, SHARE) as (application, client):
        callers = Callers(application)
        uploads = SlowUploads(client, callers.headers("alice"))
        assert await uploads.send(4) == [429]
        async with at(application, "192.0.2.9") as (elsewhere,):
            answer = await elsewhere.post(PATH, content=b"abc", headers=callers.headers("alice"))
            assert answer.status_code == 429, "her requests at every address must count together"
        assert (await client.post(PATH, content=b"abc", headers=callers.headers("bob"))).status_code == 200
        await uploads.end()


async def test_a_request_that_was_cancelled_holds_no_share(tmp_path: Path) -> None:
    async with running_project(tmp_path, FILES, SHARE) as (_, client):
        uploads = SlowUploads(client, {})
        await uploads.send(3)
        for task in uploads.sent:
            task.cancel()
        await asyncio.wait(uploads.sent)
        assert (await client.post(PATH, content=b"abc")).status_code == 200


@pytest.fixture
def server(root: Path, tmp_path: Path) -> Iterator[Served]:
    limits = {"SERVER_MAX_CONCURRENT_REQUESTS": "60", "LOG_LEVEL": "WARNING"}
    with served(root, tmp_path, f"sqlite:///{tmp_path / 'data'}", **limits) as one:
        yield one


@pytest.mark.integration
def test_sixty_slow_uploads_of_one_caller_do_not_block_other_callers(server: Served) -> None:
    """Without the limit, they filled the process, and every other request got 503."""
    with slow_uploads(server, 60, "192.0.2.1"):
        for one in (request("GET", IMAGES), with_address(upload("a.png", picture()), "192.0.2.2")):
            assert server.send(one).statuses in {(200,), (201,)}


@contextmanager
def slow_uploads(server: Served, count: int, address: str) -> Iterator[None]:
    """Begin uploads, each with a part of its body."""
    head = with_address(upload("a.png", bytes(1 << 20)), address)[: 64 << 10]
    open_ones: list[socket] = []
    try:
        for _ in range(count):
            open_ones.append(create_connection(("127.0.0.1", server.port), timeout=10))
            open_ones[-1].sendall(head)
        yield
    finally:
        for one in open_ones:
            one.close()


def with_address(sent: bytes, address: str) -> bytes:
    """Return the request as a proxy passes it on for this address."""
    line, _, rest = sent.partition(b"\r\n")
    return line + b"\r\nX-Forwarded-For: " + address.encode() + b"\r\n" + rest
