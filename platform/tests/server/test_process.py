"""How one process stops: within its budgets, whatever the application does."""

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
    """The exit code of one that is told to stop, and after how many seconds."""
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
    """What we start inherits what we ignore."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["sync", "thread", "stubborn"])
async def test_a_request_that_cannot_be_cancelled_does_not_keep_the_process(tmp_path: Path, what: str) -> None:
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
    if what != "stubborn":  # which ends never, and so leaves no line
        assert '"status": 503' in here.said


@pytest.mark.slow
@pytest.mark.parametrize("end", ["thread", "stubborn", "block"])
async def test_an_end_that_does_not_end_does_not_keep_the_process(tmp_path: Path, end: str) -> None:
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


async def test_a_start_that_fails_fails_whatever_it_leaves_behind(tmp_path: Path) -> None:
    here = stubborn_project(tmp_path, BAD_START="fail")
    with here.process() as process:
        assert await asyncio.to_thread(process.wait, 20) == 3
    assert "the bucket is gone" in here.said


async def test_a_hangup_takes_nothing_from_one_process(tmp_path: Path) -> None:
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


async def test_a_hangup_in_the_first_moments_does_not_end_the_start(tmp_path: Path) -> None:
    here = stubborn_project(tmp_path)
    with here.process("--workers", "2") as process:
        await until(lambda: asyncio.to_thread(_ignores_hangups, process))
        assert "API" not in here.said
        process.send_signal(signal.SIGHUP)
        await until_serving(here.port)
        assert (await _ends(process))[0] == 0


@pytest.mark.slow
async def test_with_auto_reload_it_ends_with_its_terminal(tmp_path: Path) -> None:
    here = stubborn_project(tmp_path, SERVER_RELOAD="true")
    with here.process() as process:
        await until_serving(here.port)
        assert not _ignores_hangups(process)
        assert (await _ends(process))[0] == 0
