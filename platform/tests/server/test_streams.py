"""Streams at the stop of a real process: server-sent events end with the drain, downloads to their end."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

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


class Streams(NamedTuple):
    """Three streams of a process that is told to stop, to their ends."""

    first_lines: set[str]
    downloaded: int
    code: int
    seconds: float
    log: str


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Streams:
    """Open the streams, stop the process, and read them. Raises httpx2's error if one is torn."""
    folder = tmp_path_factory.mktemp("streams")
    return asyncio.run(_end(project(folder, f"sqlite:///{folder / 'data'}", FILES, SERVER_DRAIN_SECONDS="0")))


async def _end(here: Served) -> Streams:
    async with AsyncExitStack() as stack:
        process = stack.enter_context(here.process())
        await until_serving(here.port)
        client = await stack.enter_async_context(httpx2.AsyncClient(timeout=30))
        events = [
            (await stack.enter_async_context(client.stream("GET", f"{here.url}{LIVE}/{kind}"))).aiter_lines()
            for kind in ("plain", "sse")
        ]
        first_lines = {await anext(lines) for lines in events}
        download = await stack.enter_async_context(client.stream("GET", f"{here.url}{LIVE}/download"))
        parts = download.aiter_bytes()
        downloaded = len(await anext(parts))
        began_at = time.monotonic()
        process.terminate()
        downloaded += sum([len(part) async for part in parts])
        for lines in events:
            async for _ in lines:
                pass
        code = await asyncio.to_thread(process.wait, 25)
        return Streams(first_lines, downloaded, code, time.monotonic() - began_at, here.said)


def test_streams_of_events_end_when_the_drain_ends(ended: Streams) -> None:
    assert len(ended.first_lines) == 2
    assert all("tick" in line for line in ended.first_lines)
    assert (ended.code, ended.seconds < 8) == (0, True), ended.seconds
    assert ended.log.count("the stream has ended") == 2
    assert "request(s) cancelled" not in ended.log
    assert "Traceback" not in ended.log


def test_a_download_that_has_begun_is_sent_to_its_end(ended: Streams) -> None:
    assert ended.downloaded == 10_000


async def test_a_head_of_a_stream_leaves_its_connection_free(tmp_path: Path) -> None:
    here = project(tmp_path, f"sqlite:///{tmp_path / 'data'}", FILES, SERVER_DRAIN_SECONDS="0")

    async def have_ended() -> bool:
        return here.said.count("the stream has ended") == 2

    with here.process():
        await until_serving(here.port)
        async with httpx2.AsyncClient(timeout=5, limits=httpx2.Limits(max_connections=1)) as client:
            for kind in ("plain", "sse"):
                answer = await client.head(f"{here.url}{LIVE}/{kind}")
                assert answer.headers["content-type"].startswith("text/event-stream")
            assert (await client.get(f"{here.url}/health/live")).status_code == 200
        await until(have_ended)
