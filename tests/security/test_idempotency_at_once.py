"""One key in many simultaneous requests, in one process and in two; and a process that ends before it responds."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx2
import pytest

from kernel.application import Application
from tests.faults.harness import end, free_port, until_serving
from tests.security.serving import served
from tests.security.test_idempotency import CONCERT, EVENTS, KEY, rows

pytestmark = pytest.mark.slow

AT_ONCE = 50
# Ends the process after the event is committed and before its response is stored.
ENDS_BEFORE_THE_ANSWER = """
import os, signal, sys
from kernel.ext.idempotency.keys import IdempotencyKeys
IdempotencyKeys.save_response = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from kernel.cli.main import main
sys.argv = ["kernel", "serve"]
main()
"""


async def test_fifty_simultaneous_requests_in_one_process_make_one_row(
    client: httpx2.AsyncClient, application: Application
) -> None:
    answers = await asyncio.gather(*(client.post(EVENTS, json=CONCERT, headers=KEY) for _ in range(AT_ONCE)))
    _are_one(answers)
    assert await rows(application, "events", "events") == 1
    again = await client.post(EVENTS, json=CONCERT, headers=KEY)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")


async def test_fifty_simultaneous_requests_on_two_processes_make_one_row(
    root: Path, tmp_path: Path, database_url: str
) -> None:
    """Naive: look up and then write, without a key in the same transaction, which creates one row in each process."""
    with ExitStack() as stack:
        folders = [tmp_path / name for name in ("one", "two")]
        for folder in folders:
            folder.mkdir()
        ports = [stack.enter_context(served(root, folder, database_url)).port for folder in folders]
        async with httpx2.AsyncClient() as client:
            urls = [f"http://127.0.0.1:{port}{EVENTS}" for port in ports]
            for number in range(5):
                key = {"Idempotency-Key": f"{number}"}
                requests = (client.post(urls[i % 2], json=CONCERT, headers=key) for i in range(AT_ONCE))
                _are_one(await asyncio.gather(*requests))
                assert (await client.get(urls[0])).json()["total"] == number + 1


async def test_a_process_that_ends_between_commit_and_response_leaves_a_valid_key(
    root: Path, tmp_path: Path, database_url: str
) -> None:
    port = free_port()
    process = _that_ends_early(root, tmp_path, DATABASE_URL=database_url, SERVER_PORT=str(port))
    try:
        await until_serving(port)
        async with httpx2.AsyncClient() as client:
            with suppress(httpx2.TransportError):
                await client.post(f"http://127.0.0.1:{port}{EVENTS}", json=CONCERT, headers=KEY)
        assert process.wait(10) == -signal.SIGKILL
    finally:
        end(process)
    with served(root, tmp_path, database_url) as server:
        url = f"http://127.0.0.1:{server.port}{EVENTS}"
        async with httpx2.AsyncClient() as client:
            again = await client.post(url, json=CONCERT, headers=KEY)
            assert again.status_code == 409
            assert "was carried out" in again.json()["detail"]
            assert (await client.get(url)).json()["total"] == 1


def _that_ends_early(root: Path, folder: Path, **variables: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", ENDS_BEFORE_THE_ANSWER]
    own = {"SERVER_RELOAD": "false", "IMAGES_STORAGE_URL": f"file://{folder / 'images'}", **variables}
    return subprocess.Popen(command, cwd=root, env={**os.environ, **own}, stderr=subprocess.DEVNULL)


def _are_one(answers: list[httpx2.Response]) -> None:
    """Assert that one request was executed; every other is a replay, or was refused while that one was in progress."""
    found = Counter((answer.status_code, "idempotency-replayed" in answer.headers) for answer in answers)
    assert set(found) <= {(201, False), (201, True), (409, False)}, found
    assert found[201, False] == 1, found
    assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
    assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 409)
