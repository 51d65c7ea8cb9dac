"""Starts that fail. Guards against a process that hangs, reports nothing, leaves resources open or retries for ever."""

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.engine import URL, make_url

from kernel.testing import create_database, query
from tests.faults.harness import KERNEL, Result, free_port, until, until_serving
from tests.faults.served import Served, project

Scenario = Callable[[Path, str, bool], Awaitable[list[Result]]]

_SECOND = """
revision, down_revision, branch_labels, depends_on = "0002", "0001", None, None

def upgrade() -> None:
    pass
"""


@dataclass(frozen=True)
class Fault:
    """An error in the configuration, and the message that reports it."""

    name: str
    says: str
    variables: Mapping[str, str] = field(default_factory=dict)
    # Whether resources were open when it was found.
    opens: bool = False
    # Whether the tables were created before the last migration was written.
    is_behind: bool = False


async def failed_starts(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """Starts with one process and with several. (uvicorn's supervisor restarts a worker that cannot start for ever.)"""
    (folder / "secrets").mkdir(parents=True)
    (folder / "secrets" / "DATABASE_PASSWORD").write_bytes(b"\xff\xfe\xff")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        faults = [
            Fault("a setting that is misspelled", "Did you mean SERVER_WORKERS?", {"SERVER_WORKER": "2"}),
            Fault("a setting that is wrong", "SERVER_BACKLOG", {"SERVER_BACKLOG": "many"}),
            Fault("a setting that is missing", "DATABASE_URL: is required", {"ENVIRONMENT": "dev", "DATABASE_URL": ""}),
            Fault("a secret that cannot be read", "is not UTF-8 text", {"SECRETS_DIR": str(folder / "secrets")}),
            Fault("a port that is taken", "Cannot listen on", {"SERVER_PORT": str(taken.getsockname()[1])}),
            Fault("tables that are missing", "run `kernel migrate`", {"ENVIRONMENT": "dev", "AUTH_ENABLED": "false"}),
            Fault("a database one migration behind", "the tables of work lack 1 migration(s), the first being 0002",
                  {"ENVIRONMENT": "dev", "AUTH_ENABLED": "false"}, is_behind=True),
            Fault("a database that refuses", "/a cannot be reached: [Errno 111] Connection refused",
                  {"DATABASE_URL": f"postgresql://a@127.0.0.1:{free_port()}/a"}),
            Fault("a module that fails half way", "RuntimeError: the bucket is gone (modules/failing/module.py:8)",
                  {"FAILING_FAILS": "true"}, opens=True),
        ]  # fmt: skip
        results = []
        for place, fault in enumerate(faults):
            for workers in ("1",) if quick and place < len(faults) - 1 else ("1", "2"):
                one = folder / f"fault{place}_{workers}"
                results.append(await _start(one, database_url, fault, workers, f"start{place}_{workers}"))
    return results


async def _start(folder: Path, database_url: str, fault: Fault, workers: str, name: str) -> Result:
    server = make_url(database_url)
    fresh = create_database(server.set(database="postgres"), name)
    variables = {"SERVER_WORKERS": workers, **fault.variables}
    here = project(folder, fresh.render_as_string(hide_password=False), **variables)
    if fault.is_behind:
        await asyncio.to_thread(_migrate_and_add_one, here)
    port = int(variables.get("SERVER_PORT", here.port))
    began_at = time.monotonic()
    with here.process(port=port) as process:
        code = await asyncio.to_thread(process.wait, 60)
    took = time.monotonic() - began_at
    times, is_bare = here.said.count(fault.says), "Traceback" in here.said
    left = await _left_open(server, name)
    opened, closed = here.journal.count("opened"), here.journal.count("closed")
    return Result(
        f"start with {fault.name}", here.kind, f"{workers} worker(s)", f"exit code {code}; opened {opened}",
        f"{took:.1f} s; said {times} time(s); {opened - closed + left} left open", "5 s, once, 0, no traceback",
        holds=code > 0 and took < 5 and times == 1 and not is_bare and left == 0
        and opened == closed == fault.opens,
    )  # fmt: skip


async def _left_open(server: URL, name: str) -> int:
    """Return how many connections to a database stay open. The server ends those of a process a moment after it."""
    counted = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"

    async def is_free() -> bool:
        return query(server, counted) == "0"

    with suppress(TimeoutError):
        await until(is_free, 2)
    return int(query(server, counted))


def _migrate_and_add_one(here: Served) -> None:
    environment = {**os.environ, **here.variables}
    subprocess.run([KERNEL, "migrate"], cwd=here.root, env=environment, check=True, capture_output=True)
    (here.root / "migrations" / "work" / "0002_second.py").write_text(_SECOND)


async def too_many_connections(folder: Path, database_url: str, quick: bool) -> list[Result]:
    """The start warns if the pools together exceed the database's limit. (Naive: only the first full load shows it.)"""
    del quick
    allowed = int(query(make_url(database_url), "SHOW max_connections"))
    told = []
    for size in (5, allowed):
        here = project(folder / f"size{size}", database_url, DATABASE_POOL_SIZE=str(size))
        with here.process("--workers", "2"):
            await until_serving(here.port)
            await asyncio.sleep(0.5)
        told.append(here.said.count(f"may open {2 * (size + 10)} connections to a database server that allows"))
    return [
        Result("workers x pool beyond max_connections", "PostgreSQL", "below it, above it", f"allowed {allowed}",
               f"warnings: {told[0]}, {told[1]}", "0, 1", holds=told == [0, 1])
    ]  # fmt: skip


ON_POSTGRESQL = (failed_starts, too_many_connections)
