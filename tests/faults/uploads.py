"""kill -9 while pictures are uploaded. Guards against rows whose bytes are missing."""

import asyncio
import os
import random
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2

from tests.faults.harness import KERNEL, PATCHED, Result, end, until_serving
from tests.faults.served import Served
from tests.faults.uploading import files, kept, picture, repository, upload

Scenario = Callable[[Path, str, bool], Awaitable[list[Result]]]

_DIE = """
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def dying_after(owner, name, calls=1):
    original, left = getattr(owner, name), [calls]
    async def run(*args, **options):
        result = await original(*args, **options)
        left[0] -= 1
        return result if left[0] else die()
    setattr(owner, name, run)

from kernel.database.session import WriteSession
from kernel.ext.fast.session import FastWriteSession
from modules.images.repository import ImageRepository
from modules.images.service import ImageService
from modules.images.storage import ImageStorage
"""
_POINTS = {
    "spooled": "ImageService.store = die",
    "content put": "dying_after(ImageStorage, 'put')",
    "thumbnail put": "dying_after(ImageStorage, 'put', 2)",
    "row inserted": "dying_after(ImageRepository, 'create')",
    "before COMMIT": "WriteSession.finish = FastWriteSession.finish = die",
    "after COMMIT": "dying_after(WriteSession, 'finish')\ndying_after(FastWriteSession, 'finish')",
}


async def killed_while_uploading(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """At every step, and at random under load; then the sweep.

    (Naive: a row that is written first outlives its bytes.)
    """
    times, cycles = (1, 2) if quick else (3, 10)
    data = picture(200)
    here = repository(folder, database_url)
    crashes, acknowledged = 0, set[int]()
    with here.process():  # Creates the tables.
        await until_serving(here.port)
    for patch in _POINTS.values():
        for _ in range(times):
            process = _patched(here, patch)
            try:
                await until_serving(here.port)
                async with httpx2.AsyncClient(timeout=30) as client:
                    try:
                        await upload(client, here, data)
                    except httpx2.TransportError:
                        crashes += process.wait() == -9
            finally:
                end(process)
    for _ in range(cycles):
        with here.process() as process:
            await until_serving(here.port)
            async with httpx2.AsyncClient(timeout=30) as client:
                callers = [asyncio.create_task(_keep_uploading(client, here, data, acknowledged)) for _ in range(4)]
                await asyncio.sleep(random.uniform(0.2, 1.5))
                end(process)
                await asyncio.gather(*callers)
                crashes += 1
    with here.process():
        await until_serving(here.port)
        before = files(here.root / "pictures")
        _images(here, "own")
        counted = _sweep(here)
        unchanged = len(files(here.root / "pictures"))
        deleted = _sweep(here, "--delete")
        ids, lost = await kept(here)
    after = files(here.root / "pictures")
    orphans = len(before) - 2 * len(ids)
    forgotten = len(acknowledged - ids)
    return [
        Result("kill -9 while uploading", here.kind,
               f"{len(_POINTS)} points {times} times, {cycles} at random; {len(ids)} images",
               f"{crashes} killed, {orphans} files left behind",
               f"{lost} rows without bytes, {forgotten} acknowledged lost; swept to {len(after) - 2 * len(ids)}",
               "0, 0; 0",
               holds=crashes == len(_POINTS) * times + cycles and orphans > 0 and unchanged == len(before)
               and (lost, forgotten) == (0, 0) and len(after) == 2 * len(ids) and orphans == counted == deleted)
    ]  # fmt: skip


async def _keep_uploading(client: httpx2.AsyncClient, here: Served, data: bytes, acknowledged: set[int]) -> None:
    """Upload until the server is gone."""
    while True:
        try:
            answer = await upload(client, here, data)
        except httpx2.TransportError:
            return
        acknowledged.add(answer.raise_for_status().json()["id"])


def _patched(here: Served, patch: str) -> subprocess.Popen[bytes]:
    words = ("serve", "--port", str(here.port))
    code = PATCHED.format(patch=_DIE + patch)
    with (here.root / "processes.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", code, *words], cwd=here.root, env=_environment(here), stdout=log, stderr=log
        )


def _sweep(here: Served, *words: str) -> int:
    """Run the sweep, and return how many files it found."""
    output = _images(here, "sweep", "--older-than-hours", "0", *words)
    [orphans, unfinished] = re.findall(r"([\d,]+)(?: of them| more)", output)
    return int(orphans.replace(",", "")) + int(unfinished.replace(",", ""))


def _images(here: Served, *words: str) -> str:
    """Run `kernel images WORDS` and return what it printed."""
    command = [KERNEL, "images", *words]
    done = subprocess.run(command, cwd=here.root, env=_environment(here), check=True, capture_output=True, text=True)
    return done.stdout


def _environment(here: Served) -> dict[str, str]:
    # A process that is killed at a COMMIT must not be killed at one of its start.
    return {**os.environ, **here.variables, "MESSAGING_RELAY": "false"}


ON_BOTH: tuple[Scenario, ...] = (killed_while_uploading,)
