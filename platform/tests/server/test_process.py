"""One process stops within its time limits, whatever the application does."""

import asyncio
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.faults.harness import until, until_serving
from tests.faults.served import Served
from tests.server.stubborn import stubborn_project

pytestmark = pytest.mark.integration

_LEFT = "the process ends without it"


async def _ends(process: subprocess.Popen[bytes]) -> tuple[int, float]:
    """Stop the process; return its exit code, and the seconds that it took."""
    began_at = time.monotonic()
    process.terminate()
    code = await asyncio.to_thread(process.wait, 20)
    return code, time.monotonic() - began_at


async def _said(here: Served, words: str) -> bool:
    return words in here.said


def _ignores_hangups(process: subprocess.Popen[bytes]) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return bool(int(status.partition("SigIgn:")[2].split()[0], 16) & 1 << (signal.SIGHUP - 1))


@pytest.fixture(autouse=True)
def _not_under_nohup() -> Iterator[None]:
    """Reset the signal handling, because child processes inherit ignored signals."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["sync", "thread", "stubborn"])
async def test_a_request_that_cannot_be_cancelled_does_not_delay_the_exit(tmp_path: Path, what: str) -> None:
    here = stubborn_project(tmp_path)
    with here.process() as process:
        await until_serving(here.port)
        async with httpx2.AsyncClient(timeout=30) as client:
            asked = asyncio.create_task(client.get(f"{here.url}/api/v1/bad/{what}"))
            await until(lambda: _said(here, "the request has begun"))
            code, took = await _ends(process)
            assert (await asked).status_code == 503
    assert (code, took < 5) == (0, True), took
    assert _LEFT in here.said
    if what != "stubborn":  # It never ends, and so writes no log line.
        assert '"status": 503' in here.said


@pytest.mark.slow
@pytest.mark.parametrize("end", ["thread", "stubborn", "block"])
async def test_a_lifespan_that_does_not_end_does_not_delay_the_exit(tmp_path: Path, end: str) -> None:
    here = stubborn_project(tmp_path, BAD_END=end)
    with here.process() as process:
        await until_serving(here.port)
        code, took = await _ends(process)
    assert (code, took < 6) == (0, True), took
    assert _LEFT in here.said


async def test_a_start_that_hangs_in_a_thread_can_be_stopped(tmp_path: Path) -> None:
    here = stubborn_project(tmp_path, BAD_START="thread")
    with here.process() as process:
        await until(lambda: _said(here, "the module bad starts"))
        code, took = await _ends(process)
    assert (code, took < 5) == (0, True), took


async def test_a_failed_start_ends_the_process_with_open_resources(tmp_path: Path) -> None:
    here = stubborn_project(tmp_path, BAD_START="fail")
    with here.process() as process:
        assert await asyncio.to_thread(process.wait, 20) == 3
    assert "the bucket is gone" in here.said


async def test_sighup_does_not_disturb_a_single_process(tmp_path: Path) -> None:
    here = stubborn_project(tmp_path)
    with here.process() as process:
        await until_serving(here.port)
        async with httpx2.AsyncClient(timeout=30) as client:
            asked = asyncio.create_task(client.get(f"{here.url}/api/v1/bad/waited", params={"seconds": "0.6"}))
            await until(lambda: _said(here, "the request has begun"))
            process.send_signal(signal.SIGHUP)
            assert (await asked).status_code == 200
        code, _ = await _ends(process)
    assert code == 0
    assert _LEFT not in here.said


@pytest.mark.slow
async def test_an_early_sighup_does_not_end_the_start(tmp_path: Path) -> None:
    here = stubborn_project(tmp_path)
    with here.process("--workers", "2") as process:
        await until(lambda: asyncio.to_thread(_ignores_hangups, process))
        assert "API" not in here.said
        process.send_signal(signal.SIGHUP)
        await until_serving(here.port)
        assert (await _ends(process))[0] == 0


@pytest.mark.slow
async def test_with_auto_reload_sighup_is_not_ignored(tmp_path: Path) -> None:
    here = stubborn_project(tmp_path, SERVER_RELOAD="true")
    with here.process() as process:
        await until_serving(here.port)
        assert not _ignores_hangups(process)
        assert (await _ends(process))[0] == 0
