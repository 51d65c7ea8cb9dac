"""Which responses are compressed, for which callers; and a stream is sent as it is made."""

import asyncio
import zlib
from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send

from kernel.ext.compression.middleware import Compression
from kernel.settings import SettingsError
from kernel.testing import settings_for
from tests.core.project import running_project, write_project

BASE = "/api/v1/probe"
FILES = {
    "probe/router.py": """
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from kernel import public

router = APIRouter(dependencies=[public])

@router.get("/large")
async def large() -> list[int]:
    return list(range(2000))

@router.get("/count")
async def count() -> int:
    return 1

@router.get("/stream")
async def stream() -> StreamingResponse:
    return StreamingResponse("x" * 1000 for _ in range(5))
"""
}

GZIP = {"type": "http", "method": "GET", "path": "/", "headers": [(b"accept-encoding", b"gzip")]}


async def _no_request() -> Message:
    raise AssertionError("nothing is read")


async def test_a_part_of_a_compressed_stream_arrives_before_the_next_is_made() -> None:
    arrived = asyncio.Event()
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 16)
    received: list[bytes] = []

    async def application(_scope: Scope, _receive: Receive, send: Send) -> None:
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b"[1,", "more_body": True})
        await arrived.wait()
        await send({"type": "http.response.body", "body": b"2]"})

    async def take(message: Message) -> None:
        received.append(decompressor.decompress(message.get("body", b"")))
        if b"".join(received) == b"[1,":
            arrived.set()

    async with asyncio.timeout(5):
        await Compression(application, 1000)(GZIP, _no_request, take)
    assert b"".join(received) == b"[1,2]"


async def test_large_responses_are_compressed_for_callers_that_accept_it(tmp_path: Path) -> None:
    async with running_project(tmp_path, FILES) as (_, client):
        assert (await client.get(f"{BASE}/large")).headers["content-encoding"] == "gzip"
        plain = await client.get(f"{BASE}/large", headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert "Accept-Encoding" in plain.headers["vary"], (
            "a cache must not give it to callers without gzip, or the reverse"
        )
        small = (await client.get(f"{BASE}/count")).headers
        assert "content-encoding" not in small
        assert small["vary"] == "Origin"


@pytest.mark.parametrize(
    ("accepted", "is_compressed"),
    [
        ("gzip;q=0", False), ("gzip; q=0.000, *", False), ("*;q=0", False), ("br", False), ("", False),
        ("notgzip", False), ("gzip;q=nonsense", False), ("identity;q=1, *;q=0", False), ("gzip;q=0.001", True),
        ("GZIP ; Q=1.0", True), ("*", True), ("br, gzip;q=0.5", True), ("x-gzip", True),
    ],
)  # fmt: skip
async def test_the_weight_of_gzip_decides(tmp_path: Path, accepted: str, is_compressed: bool) -> None:
    async with running_project(tmp_path, FILES) as (_, client):
        answer = await client.get(f"{BASE}/large", headers={"accept-encoding": accepted})
    assert (answer.headers.get("content-encoding") == "gzip") == is_compressed
    assert answer.json()[-1] == 1999


async def test_a_stream_is_compressed_as_it_is_sent(tmp_path: Path) -> None:
    async with running_project(tmp_path, FILES) as (_, client):
        answer = await client.get(f"{BASE}/stream")
        assert answer.headers["content-encoding"] == "gzip"
        assert "content-length" not in answer.headers
        assert answer.text == "x" * 5000


async def test_the_size_from_which_answers_are_compressed_is_a_setting(tmp_path: Path) -> None:
    async with running_project(tmp_path, FILES, {"SERVER_GZIP_MINIMUM_BYTES": "100000"}) as (_, client):
        assert "content-encoding" not in (await client.get(f"{BASE}/large")).headers


def test_a_negative_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="SERVER_GZIP_MINIMUM_BYTES"):
        settings_for(write_project(tmp_path, {}), {"SERVER_GZIP_MINIMUM_BYTES": "-1"})
