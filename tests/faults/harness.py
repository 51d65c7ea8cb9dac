"""Shared by the fault scenarios: the project under test in a folder of its own, its processes, and their results."""

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from sqlalchemy import text
from sqlalchemy.engine import URL

from kernel.runtime import Kernel
from kernel.testing import query
from tests.core.waiting import until
from tests.messaging.shop import shop_kernel, write_shop

KERNEL = str(Path(sys.executable).with_name("kernel"))
# A relay's attempt counts as dead after one and a half times this.
HANDLER_TIMEOUT_SECONDS = 0.6
LEASE_SECONDS = HANDLER_TIMEOUT_SECONDS * 1.5

# Runs the command with one function of the kernel replaced by one that ends or stops the process.
PATCHED = """
import os, signal, sys
from kernel.ext.messaging.outbox import Outbox
{patch}
from kernel.cli.main import main
sys.argv = ["kernel", *sys.argv[1:]]
main()
"""


@dataclass(frozen=True)
class Result:
    """One line of the table. `bit` counts the faults that occurred: without any, the line proves nothing."""

    scenario: str
    database: str
    tried: str
    bit: str
    result: str
    bound: str
    holds: bool


def assert_all_hold(results: list[Result]) -> None:
    """Assert that there is a bound and that all hold; show a failed result completely, which pytest shortens."""
    assert results, "the scenario has no result"
    broken = [str(one) for one in results if not one.holds]
    assert not broken, "\n".join(broken)


@dataclass
class Shop:
    """The project of platform/tests/messaging/shop.py on one database, and its processes."""

    root: Path
    database_url: str
    kernel: Kernel
    variables: dict[str, str]

    @property
    def kind(self) -> str:
        """Return the name of the database in the table."""
        return "SQLite" if self.database_url.startswith("sqlite") else "PostgreSQL"

    @contextmanager
    def process(self, *words: str, patch: str | None = None, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run `kernel WORDS` in the project's folder, and kill it at the end of the block."""
        command = [KERNEL] if patch is None else [sys.executable, "-c", PATCHED.format(patch=patch)]
        environment = {**os.environ, **self.variables, **variables}
        with (self.root / "processes.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, *words], cwd=self.root, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        try:
            yield process
        finally:
            end(process)

    async def rows(self, module: str, statement: str) -> list[Any]:
        """Return the rows of a query on a module's own tables; `{s}` stands for the schema."""
        database = self.kernel.contexts[module].database
        prefix = f"{database.placement.schema}." if database.placement.schema else ""
        async with database.read() as session:
            return list((await session.execute(text(statement.format(s=prefix)))).all())

    async def until_drained(self, seconds: float = 120) -> None:
        """Wait until no message is left to deliver. Raises TimeoutError with the remaining ones."""
        try:
            await until(self._is_drained, seconds)
        except TimeoutError:
            counted = "SELECT state, count(*), min(attempts), max(attempts), max(error) FROM {s}outbox GROUP BY state"
            said = (self.root / "processes.log").read_text()[-2000:]
            raise TimeoutError(f"{await self.rows('shop', counted)}\n{said}") from None

    async def _is_drained(self) -> bool:
        return not (await self.rows("shop", "SELECT 1 FROM {s}outbox WHERE finished_at IS NULL LIMIT 1"))


@asynccontextmanager
async def shop(folder: Path, database_url: str, **variables: str) -> AsyncIterator[Shop]:
    """Provide the project with its tables, before any process runs."""
    root = folder / f"shop{random.randrange(10**9)}"
    root.mkdir(parents=True)
    write_shop(root)
    common = {
        "ENVIRONMENT": "local",
        "LOG_LEVEL": "WARNING",
        "LOG_FORMAT": "json",
        "SERVER_RELOAD": "false",
        "MESSAGING_POLL_SECONDS": "0.2",
        "MESSAGING_BACKOFF_SECONDS": "0.05",
        "MESSAGING_HANDLER_TIMEOUT_SECONDS": str(HANDLER_TIMEOUT_SECONDS),
        **variables,
        "DATABASE_URL": database_url,
    }
    own = {name: value for name, value in common.items() if name not in {"ENVIRONMENT", "DATABASE_URL"}}
    async with shop_kernel(root, database_url, DATABASE_POOL_SIZE="20", **own) as kernel:
        yield Shop(root, database_url, kernel, common)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that this program started, and wait for its end."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait()


def free_port() -> int:
    """Return an unused port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until_serving(port: int) -> None:
    """Wait until the process behind the port answers."""

    async def answers() -> bool:
        try:
            await client.get(f"http://127.0.0.1:{port}/api/v1/nothing", timeout=0.5)
        except httpx2.TransportError:
            return False
        return True

    async with httpx2.AsyncClient(verify=False) as client:  # it reads no certificates, which takes 60 ms
        await until(answers)


def percentiles(seconds: list[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile, in milliseconds."""
    ordered = sorted(seconds)
    return ordered[len(ordered) // 2] * 1000, ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1000


def is_stopped(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a signal has stopped the process (Linux)."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def terminate_listeners(server: URL) -> int:
    """End the database connections that listen, wait for their end, and return their number."""
    found = query(
        server,
        "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND query ~ '^LISTEN'",
    )
    return int(found)
