"""Full disks. Guards against a 400 that blames the client, a missing log line, and partial writes."""

import asyncio
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import httpx2

from tests.core.waiting import until
from tests.faults.harness import Result, until_serving
from tests.faults.served import Served, project
from tests.faults.uploading import files, fill, kept, picture, repository, small_disk, upload

Scenario = Callable[[Path, str, bool], Awaitable[list[Result]]]


async def full_while_uploading(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """The disk of the object storage fills up. (Naive: bytes without a row, or a row without bytes, would remain.)"""
    times = 20 if quick else 100
    data = picture(300)
    with small_disk(folder / "disk", 2) as disk:
        here = repository(folder, database_url, IMAGES_STORAGE_URL=str(disk / "pictures"))
        with here.process():
            await until_serving(here.port)
            async with httpx2.AsyncClient(timeout=30) as client:
                answers = [await upload(client, here, data) for _ in range(times)]
                ids, lost = await kept(here)
                left = len(files(disk)) - 2 * len(ids)
                (await client.delete(f"{here.url}/api/v1/images/{min(ids)}")).raise_for_status()
                after = await upload(client, here, data)
    return [_uploads(here, "storage full during upload", answers, after, lost, left, "image storage unavailable")]


async def full_while_spooling(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """The disk of temporary files, where forms above 1 MiB are stored, is full. (FastAPI answers 400.)"""
    times = 5 if quick else 50
    data = picture(700)
    with small_disk(folder / "disk", 4) as disk:
        here = repository(folder, database_url, TMPDIR=str(disk))
        with here.process():
            await until_serving(here.port)
            async with httpx2.AsyncClient(timeout=30) as client:
                # Python takes another folder if this one is full when it first looks.
                (await upload(client, here, data)).raise_for_status()
                await until(partial(_is_empty, disk))
                filler = fill(disk)
                answers = [await upload(client, here, data) for _ in range(times)]
                ids, lost = await kept(here)
                left = len(files(disk)) - 1 + len(files(here.root / "pictures")) - 2 * len(ids)
                filler.unlink()
                after = await upload(client, here, data)
    return [_uploads(here, "TMPDIR full during upload", answers, after, lost, left, "body not written")]


async def _is_empty(disk: Path) -> bool:
    """Return whether the spooled files are deleted, which only the free space shows."""
    found = os.statvfs(disk)
    return found.f_bavail == found.f_blocks


def _uploads(
    here: Served, scenario: str, answers: list[httpx2.Response], after: httpx2.Response, lost: int, left: int, log: str
) -> Result:
    statuses = Counter(one.status_code for one in answers)
    proper = sum(one.headers["content-type"] == "application/problem+json" for one in answers if one.status_code == 507)
    logged = sum(log in line for line in here.said.splitlines())
    return Result(
        scenario, here.kind, f"{len(answers)} uploads", f"{statuses[507]} had no room",
        f"answers {dict(sorted(statuses.items()))}, {proper} problem details; {logged} logged; {lost} rows without "
        f"bytes, {left} files without a row; with room again {after.status_code}",
        "201 507, all, all; 0, 0; 201",
        holds=statuses[507] > 0 and not set(statuses) - {201, 507} and proper == statuses[507] == logged
        and (lost, left, after.status_code) == (0, 0, 201),
    )  # fmt: skip


async def full_under_sqlite(folder: Path, _database_url: str, quick: bool) -> list[Result]:
    """The disk of a SQLite database fills up during writes. (Naive: a failed COMMIT is reported as a success.)"""
    rounds = 3 if quick else 10
    with small_disk(folder / "disk", 12) as disk:
        here = project(folder, f"sqlite:///{disk / 'data'}")
        told: dict[int, int] = {}
        recovered = []
        with here.process():
            await until_serving(here.port)
            async with httpx2.AsyncClient(timeout=30) as client:

                async def write(number: int) -> int:
                    answer = await client.post(f"{here.url}/api/v1/work?number={number}")
                    told[number] = answer.status_code
                    return answer.status_code

                for _ in range(rounds):
                    await asyncio.gather(*(write(len(told) + more) for more in range(20)))
                    filler = await asyncio.to_thread(fill, disk)
                    # The write-ahead log has space of its own before it needs more.
                    for _ in range(60):
                        if 503 in await asyncio.gather(*(write(len(told) + more) for more in range(20))):
                            break
                    await asyncio.gather(*(write(len(told) + more) for more in range(20)))
                    filler.unlink()
                    freed_at = time.monotonic()
                    while await write(len(told)) != 201:
                        pass
                    recovered.append(time.monotonic() - freed_at)
                stored = set((await client.get(f"{here.url}/api/v1/work/all")).json())
        with sqlite3.connect(disk / "data" / "work.db") as connection:
            [[sound]] = connection.execute("PRAGMA integrity_check")
        connection.close()
        logged = sum("database unavailable" in line for line in here.said.splitlines())
    statuses = Counter(told.values())
    acknowledged = {number for number, status in told.items() if status == 201}
    lost, ghosts = len(acknowledged - stored), len(stored - acknowledged)
    return [
        Result("SQLite's disk full", here.kind, f"{rounds} times, {len(told):,} writes", f"{statuses[503]} had no room",
               f"answers {dict(sorted(statuses.items()))}, {logged} logged; {lost} lost, {ghosts} that were refused; "
               f"file {sound}; well after {max(recovered):.2f} s", "201 503, all; 0, 0; ok; 1 s",
               holds=statuses[503] > 0 and not set(statuses) - {201, 503} and logged >= statuses[503]
               and (lost, ghosts, sound) == (0, 0, "ok") and max(recovered) < 1)
    ]  # fmt: skip


ON_BOTH: tuple[Scenario, ...] = (full_while_uploading,)
ONCE: tuple[Scenario, ...] = (full_while_spooling, full_under_sqlite)
