"""Streams at the stop of a real process: server-sent events end with the drain, downloads to their end."""

import asyncio
import time
from pathlib import Path

import httpx2
import pytest

from tests.faults.harness import until, until_serving
from tests.faults.served import Served, project

pytestmark = pytest.mark.integration

FILES = {
    "live/router.py": """
import asyncio
from collections.abc import AsyncIterable
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse

router = APIRouter()

async def ticks():
    try:
        while True:
            yield "data: tick\\n\\n"
            await asyncio.sleep(0.1)
    finally:
        print("the stream has ended", flush=True)

@router.get("/plain")
async def plain() -> StreamingResponse:
    return StreamingResponse(ticks(), media_type="text/event-stream")

@router.get("/sse", response_class=EventSourceResponse)
async def sse() -> AsyncIterable[str]:
    try:
        while True:
            yield "tick"
            await asyncio.sleep(0.1)
    finally:
        print("the stream has ended", flush=True)

@router.get("/download")
async def download() -> StreamingResponse:
    async def parts():
        for _ in range(10):
            yield b"x" * 1000
            await asyncio.sleep(0.1)
    return StreamingResponse(parts(), media_type="text/csv")
""",
}
LIVE = "/api/v1/live"


def served(folder: Path) -> Served:
    return project(folder, f"sqlite:///{folder / 'data'}", FILES, SERVER_DRAIN_SECONDS="0")


async def _said(here: Served, words: str) -> bool:
    return words in here.said


@pytest.mark.parametrize("kind", ["plain", "sse"])
async def test_a_stream_of_events_ends_when_the_drain_ends(tmp_path: Path, kind: str) -> None:
    here = served(tmp_path)
    with here.process() as process:
        await until_serving(here.port)
        async with httpx2.AsyncClient(timeout=30) as client, client.stream("GET", f"{here.url}{LIVE}/{kind}") as answer:
            lines = answer.aiter_lines()
            assert "tick" in await anext(lines)
            began_at = time.monotonic()
            process.terminate()
            async for _ in lines:  # Raises if the stream is incomplete.
                pass
        assert await asyncio.to_thread(process.wait, 25) == 0
    assert time.monotonic() - began_at < 8
    assert await _said(here, "the stream has ended")
    assert "request(s) cancelled" not in here.said
    assert "Traceback" not in here.said


async def test_a_download_that_has_begun_is_sent_to_its_end(tmp_path: Path) -> None:
    here = served(tmp_path)
    with here.process() as process:
        await until_serving(here.port)
        async with (
            httpx2.AsyncClient(timeout=30) as client,
            client.stream("GET", f"{here.url}{LIVE}/download") as answer,
        ):
            parts = answer.aiter_bytes()
            received = len(await anext(parts))
            process.terminate()
            received += sum([len(part) async for part in parts])
        assert await asyncio.to_thread(process.wait, 25) == 0
    assert received == 10_000


async def test_a_head_of_a_stream_leaves_its_connection_free(tmp_path: Path) -> None:
    here = served(tmp_path)
    with here.process():
        await until_serving(here.port)
        async with httpx2.AsyncClient(timeout=5, limits=httpx2.Limits(max_connections=1)) as client:
            for kind in ("plain", "sse"):
                answer = await client.head(f"{here.url}{LIVE}/{kind}")
                assert answer.headers["content-type"].startswith("text/event-stream")
            assert (await client.get(f"{here.url}/health/live")).status_code == 200
        await until(lambda: _said(here, "the stream has ended"))
