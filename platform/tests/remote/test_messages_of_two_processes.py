"""Two real processes with a database each: the subscriber is killed between its commit and its answer."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import pytest

from kernel.runtime import Kernel
from kernel.testing import settings_for
from tests.core.project import imported_alone
from tests.faults.harness import free_port
from tests.messaging.shop import FILES, rows, write_shop
from tests.remote.apart import SECRET

pytestmark = pytest.mark.slow

# The handler ends its process once, after the commit of the third order and before the answer.
KILLS_ITSELF = (
    FILES["mail/handlers.py"]
    .replace(
        "    if settings.delay_seconds:",
        """    if message.number == 3 and not os.path.exists("killed"):
        async def kill() -> None:
            open("killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        after_commit(letters.session, kill)
    if settings.delay_seconds:""",
    )
    .replace("from kernel.database import BaseRepository", "from kernel.database import BaseRepository, after_commit")
)


class Server:
    """One process with uvicorn alone, which nothing restarts after it was killed."""

    def __init__(self, root: Path, port: int, name: str, variables: dict[str, str]) -> None:
        self._root, self._port, self._name = root, port, name
        self._variables = os.environ | variables | {"ENABLED_MODULES": name}
        self.start()

    def start(self) -> None:
        """Start it, and return when it answers."""
        with (self._root / f"{self._name}.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "--factory", "kernel.application:create_app", f"--port={self._port}"],
                cwd=self._root,
                env=self._variables,
                stdout=log,
                stderr=log,
            )
        ends_at = time.monotonic() + 90
        while self.request("GET", "/nothing") != 404:
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < ends_at, self.log()
            time.sleep(0.05)

    def request(self, method: str, path: str, body: Any = None) -> int:
        """Send a request and return the status; 0 without an answer."""
        request = urllib.request.Request(  # The server of this test.
            f"http://127.0.0.1:{self._port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                return int(answer.status)
        except HTTPError as error:
            return error.code
        except (URLError, OSError):
            return 0

    def log(self) -> str:
        return (self._root / f"{self._name}.log").read_text()

    def wait_for_its_death(self) -> int:
        return self._process.wait(60)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_subscriber_that_dies_between_commit_and_answer_handles_the_message_once(
    tmp_path: Path, databases: tuple[str, str], stack: ExitStack
) -> None:
    write_shop(tmp_path, {"mail/handlers.py": KILLS_ITSELF})
    common = {"INTERNAL_SECRET": SECRET, "MESSAGING_POLL_SECONDS": "0.2", "MESSAGING_BACKOFF_SECONDS": "0.2"}
    ports = {"shop": free_port(), "mail": free_port()}
    at = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    here, there = databases
    of_mail = common | {"SHOP_URL": at["shop"], "DATABASE_URL": there}
    of_shop = common | {"MAIL_URL": at["mail"], "DATABASE_URL": here}
    mail = Server(tmp_path, ports["mail"], "mail", of_mail)
    stack.callback(mail.stop)
    shop = Server(tmp_path, ports["shop"], "shop", of_shop)
    stack.callback(shop.stop)
    for number in range(1, 7):
        assert shop.request("POST", "/api/v1/shop", {"number": number, "customer": "one"}) == 201, shop.log()
    assert mail.wait_for_its_death() == -signal.SIGKILL, mail.log()
    mail.start()
    found = asyncio.run(_completed(tmp_path, of_shop | {"ENABLED_MODULES": "shop"}))
    assert len(found) == 6, shop.log()
    assert max(row["attempts"] for row in found) >= 2, "one message was delivered twice"
    letters = asyncio.run(_rows(tmp_path, of_mail | {"ENABLED_MODULES": "mail"}, "mail", "letters"))
    assert [row["number"] for row in letters] == [1, 2, 3, 4, 5, 6], (
        "each order has one letter, in the order of its key"
    )


async def _completed(root: Path, variables: dict[str, str]) -> list[dict[str, Any]]:
    """Return the completed rows of the shop's outbox, after all are."""
    ends_at = time.monotonic() + 60
    while True:
        found = await _rows(root, variables, "shop", "outbox")
        done = [row for row in found if row["state"] == "completed"]
        if len(done) == len(found) or time.monotonic() > ends_at:
            return done
        await asyncio.sleep(0.1)


async def _rows(root: Path, variables: dict[str, str], module: str, table: str) -> list[dict[str, Any]]:
    with imported_alone():
        kernel = Kernel(settings_for(root, variables))
        try:
            return await rows(kernel, module, table)
        finally:
            await kernel.pool.close()
