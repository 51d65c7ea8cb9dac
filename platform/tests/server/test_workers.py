"""Several workers, and the supervisor that watches them."""

import asyncio
import os
import resource
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from kernel.ext.server.supervisor import Worker
from tests.faults.harness import end, until, until_serving
from tests.faults.served import Served, children, open_files
from tests.server.stubborn import stubborn_project

pytestmark = pytest.mark.slow


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Return a folder whose path leaves room for the name of a socket."""
    with tempfile.TemporaryDirectory(prefix="w") as folder:
        yield Path(folder)


async def _serving(here: Served) -> set[int]:
    """Return the pid of the worker that answers, of two."""
    async with httpx2.AsyncClient(timeout=5) as client:
        first = asyncio.create_task(client.get(f"{here.url}/api/v1/bad/pid"))
        await asyncio.sleep(0.1)
        answers = await asyncio.gather(first, client.get(f"{here.url}/api/v1/bad/pid"), return_exceptions=True)
    return {one.json() for one in answers if isinstance(one, httpx2.Response) and one.status_code == 200}


async def _two_serve(here: Served, process: subprocess.Popen[bytes]) -> list[int]:
    """Return the pids of both workers, after both answer."""

    async def both() -> list[int] | None:
        found = children(process.pid)
        return found if len(found) == 2 and await _serving(here) == set(found) else None

    await until_serving(here.port)
    pids: list[int] = await until(both)
    return pids


async def _said(here: Served, words: str, times: int = 1) -> bool:
    return here.said.count(words) >= times


async def _ends(process: subprocess.Popen[bytes]) -> int:
    process.terminate()
    return await asyncio.to_thread(process.wait, 20)


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _within(folder: Path) -> list[Path]:
    """Return the content of a folder and its subfolders."""
    return list(folder.rglob("*"))


def _listens(here: Served) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", here.port)) == 0


async def test_a_supervisor_that_cannot_start_a_worker_retries_and_handles_signals(tmp_path: Path) -> None:
    here = stubborn_project(tmp_path)
    with here.process("--workers", "2") as process:
        [first, _] = await _two_serve(here, process)
        files = open_files(process.pid)
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (10, hard))
        os.kill(first, signal.SIGKILL)
        await until(lambda: _said(here, "cannot start a worker", 2))
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (soft, hard))
        await _two_serve(here, process)
        assert open_files(process.pid) == files
        assert await _ends(process) == 0


def test_a_worker_that_cannot_be_started_leaves_no_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_worker: Worker) -> None:
        raise BlockingIOError

    monkeypatch.setattr("kernel.ext.server.supervisor._spawn.Process.start", fail)
    with socket.socket() as sock:
        before = open_files(os.getpid())
        with pytest.raises(BlockingIOError) as caught:
            Worker(sock, is_first=False)
        assert open_files(os.getpid()) == before
        assert caught.value.__traceback__ is not None  # keeps the worker, whose files would be closed


async def test_workers_that_hang_in_their_start_are_replaced(tmp_path: Path) -> None:
    here = stubborn_project(tmp_path, SERVER_WORKER_START_TIMEOUT_SECONDS="8")
    with here.process("--workers", "2") as process:
        [first, _] = await _two_serve(here, process)
        (here.root / "hang").touch()
        process.send_signal(signal.SIGHUP)
        os.kill(first, signal.SIGKILL)
        await until(lambda: _said(here, "did not start in time (SERVER_WORKER_START_TIMEOUT_SECONDS): killed", 2))
        assert here.said.count("the other workers stay") == 1
        (here.root / "hang").unlink()
        old = set(await _two_serve(here, process))
        process.send_signal(signal.SIGHUP)
        await until(lambda: _said(here, "stopping: serving for", 2))
        assert not old & set(await _two_serve(here, process))
        assert await _ends(process) == 0


async def test_a_killed_worker_is_reported_once(tmp_path: Path) -> None:
    here = stubborn_project(tmp_path, SERVER_WORKER_TIMEOUT_SECONDS="3")
    with here.process("--workers", "2") as process:
        [first, second] = await _two_serve(here, process)
        os.kill(first, signal.SIGSTOP)
        await until(lambda: _said(here, "a new worker replaces it"))
        assert here.said.count(": killed") == here.said.count("does not respond (SERVER") == 1
        os.kill(second, signal.SIGSTOP)
        assert await _ends(process) == 0
    assert here.said.count("did not end in time") == 1


@pytest.mark.alone
async def test_a_worker_that_dies_early_is_replaced_after_a_pause_and_leaves_no_socket(
    tmp_path: Path, short_folder: Path
) -> None:
    here = stubborn_project(tmp_path, TMPDIR=str(short_folder))
    with here.process("--workers", "2") as process:
        [first, second] = await _two_serve(here, process)
        served_at = time.monotonic()
        assert await _replaced_after(process, second) > 0.9
        await asyncio.sleep(max(0, served_at + 5.2 - time.monotonic()))  # A worker counts as young for 5 s.
        assert await _replaced_after(process, first) < 0.9
        pids = await _two_serve(here, process)
        assert sorted(int(path.stem) for path in _within(short_folder) if path.suffix) == sorted(pids)
        assert await _ends(process) == 0
    assert _within(short_folder) == []


async def _replaced_after(process: subprocess.Popen[bytes], pid: int) -> float:
    """Kill a worker, and return the seconds until there is another."""
    known = set(children(process.pid))

    async def another() -> bool:
        return not set(children(process.pid)) <= known

    killed_at = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    await until(another)
    return time.monotonic() - killed_at


async def test_workers_without_a_supervisor_free_the_port_and_remove_their_folder(
    tmp_path: Path, short_folder: Path
) -> None:
    here = stubborn_project(tmp_path, TMPDIR=str(short_folder), SERVER_DRAIN_SECONDS="4")
    with here.process("--workers", "2") as process:
        workers = await _two_serve(here, process)
        async with httpx2.AsyncClient(timeout=30) as client:
            asked = asyncio.create_task(client.get(f"{here.url}/api/v1/bad/waited", params={"seconds": "3"}))
            await until(lambda: _said(here, "the request has begun"))
            end(process)

            async def is_free() -> bool:
                return not _listens(here)

            await until(is_free, 2.5)
            assert _within(short_folder) == []
            assert all(map(_lives, workers))
            assert (await asked).status_code == 200

        async def are_gone() -> bool:
            return not any(map(_lives, workers))

        await until(are_gone, 15)


async def test_a_folder_with_a_path_too_long_for_sockets_is_reported_and_not_used(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    here = stubborn_project(tmp_path, TMPDIR=str(long))
    with here.process("--workers", "2") as process:
        await _two_serve(here, process)
        async with httpx2.AsyncClient() as client:
            assert (await client.get(f"{here.url}/metrics")).status_code == 200
        assert await _ends(process) == 0
    assert here.said.count("Set TMPDIR to a shorter path") == 1
