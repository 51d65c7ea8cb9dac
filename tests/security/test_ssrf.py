"""No caller chooses an address to which the application connects."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from kernel.http_client import HttpxRestClientPool
from kernel.settings import HttpClientSettings
from tests.modules.images.pictures import picture
from tests.security.forms import IMAGES, form, part
from tests.security.serving import request, served

pytestmark = pytest.mark.integration

EVENTS, JSON = "/api/v1/events", {"Content-Type": "application/json"}


class Trap:
    """A server to which nothing should connect; counts connections."""

    def __init__(self) -> None:
        self.visits = 0
        self.port = 0

    async def _meet(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    @classmethod
    @asynccontextmanager
    async def listening(cls) -> AsyncIterator["Trap"]:
        trap = cls()
        async with await asyncio.start_server(trap._meet, "127.0.0.1", 0) as server:
            trap.port = server.sockets[0].getsockname()[1]
            yield trap


def baits(address: str) -> list[bytes]:
    """Yield requests with the address in every place that a caller can fill."""
    url = f"http://{address}/"
    event = {"title": url, "description": url, "location": url, "date": "2030-01-02", "time": "20:00"}
    comment = io.BytesIO()
    Image.new("RGB", (5, 5)).save(comment, "JPEG", comment=url.encode())
    names = (
        "Referer",
        "Origin",
        "X-Forwarded-Host",
        "Forwarded",
        "X-Original-URL",
        "X-Callback",
        "Traceparent",
        "From",
    )
    svg = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink"><image xlink:href="{url}"/></svg>'.encode()
    xml = f'<!DOCTYPE a [<!ENTITY b SYSTEM "{url}">]><a>&b;</a>'.encode()
    file = 'form-data; name="file"; filename='
    return [
        request("POST", EVENTS, JSON, json.dumps(event).encode()),
        request("POST", EVENTS, JSON, json.dumps(event | {"image_id": url}).encode()),
        request("POST", EVENTS, JSON, json.dumps(event | {"$ref": url}).encode()),
        request("POST", EVENTS, {"Content-Type": "application/xml"}, xml),
        request("GET", f"{EVENTS}?q={url}&location={url}&cursor={url}"),
        request("GET", f"{EVENTS}/{url}"),
        request("GET", url),
        request("GET", f"/{url}"),
        request("GET", EVENTS, host=address),
        request("CONNECT", address),
        *(request("GET", EVENTS, {name: url}) for name in names),
        request("GET", f"{IMAGES}?url={url}&src={url}"),
        form(part('form-data; name="file"', url.encode())),
        form(part(f'{file}"{url}"', picture())),
        form(
            part(f'{file}"x"', picture(), f"Content-Location: {url}", f"Content-Type: message/external-body; url={url}")
        ),
        form(part(f'{file}"x.svg"', svg)),
        form(part(f'{file}"x.jpg"', comment.getvalue()), part('form-data; name="caption"', url.encode())),
        request("GET", EVENTS, {"Authorization": f"Bearer {_token(url)}"}),
    ]


def _token(url: str) -> str:
    """Return a token that names an address of its key (RFC 7515: jku, x5u)."""

    def encoded(part: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()

    head = {"alg": "RS256", "kid": url, "jku": url, "x5u": url, "jwk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}}
    return f"{encoded(head)}.{encoded({'iss': url, 'sub': 'a', 'aud': 'a', 'exp': 2**31})}.AAAA"


ISSUER = {"AUTH_ENABLED": "true", "AUTH_ISSUER": "http://127.0.0.1:9", "AUTH_AUDIENCE": "a"}


@pytest.mark.parametrize("settings", [{}, ISSUER], ids=["everybody", "tokens"])
async def test_no_route_fetches_an_address_of_a_caller(root: Path, tmp_path: Path, settings: dict[str, str]) -> None:
    async with Trap.listening() as trap:
        with served(root, tmp_path, f"sqlite:///{tmp_path / 'data'}", **settings) as server:
            sent = baits(f"127.0.0.1:{trap.port}")
            for bait in sent:
                answer = await asyncio.to_thread(server.send, bait)
                assert answer.statuses or answer.is_closed
            assert await asyncio.to_thread(server.is_alive)
        assert trap.visits == 0, f"one of {len(sent)} baits was taken"
        async with httpx2.AsyncClient() as client:  # A connection would have been counted.
            await client.get(f"http://127.0.0.1:{trap.port}/")
        assert trap.visits == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_of_an_upstream_is_not_followed(status: int) -> None:
    async with Trap.listening() as trap:

        async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            place = f"http://127.0.0.1:{trap.port}/latest/meta-data/"
            writer.write(f"HTTP/1.1 {status} Go\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
            writer.close()

        async with (
            await asyncio.start_server(redirect, "127.0.0.1", 0) as upstream,
            HttpxRestClientPool(HttpClientSettings()) as pool,
        ):
            answer = await pool.get_client().get(f"http://127.0.0.1:{upstream.sockets[0].getsockname()[1]}/")
        assert (answer.status_code, trap.visits) == (status, 0)


async def test_proxy_variables_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Trap.listening() as proxy, Trap.listening() as upstream:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with HttpxRestClientPool(HttpClientSettings()) as pool:
            await pool.get_client().get(f"http://127.0.0.1:{upstream.port}/")
        assert (proxy.visits, upstream.visits) == (0, 1)
