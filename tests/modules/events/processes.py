"""The application in processes of its own on real sockets; two processes are connected by a faulty network."""

import http.client
import shutil
import socket
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from sqlalchemy.engine import URL

from kernel.testing import query
from kernel.testing.booting import PATIENT
from kernel.testing.postgresql import SERVING
from tests.process import Process

SECRET = "fedcba9876543210fedcba9876543210"
_STARTS_WITHIN_SECONDS = 60
_EMPTY = """
DO $$ BEGIN EXECUTE (
    SELECT 'TRUNCATE ' || string_agg(format('%I.%I', schemaname, tablename), ', ') || ' RESTART IDENTITY CASCADE'
    FROM pg_tables WHERE tablename <> 'alembic_version' AND schemaname NOT IN ('pg_catalog', 'information_schema')
); END $$
"""


def free_port() -> int:
    """Return an unused port."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server(Process):
    """`kernel serve` on a free port."""

    def __init__(
        self, root: Path, log: Path, variables: dict[str, str], modules: str | None = None, port: int | None = None
    ) -> None:
        self.port = free_port() if port is None else port
        chosen = [] if modules is None else [f"--modules={modules}"]
        super().__init__(root, log, variables, "serve", "--host=127.0.0.1", f"--port={self.port}", *chosen)

    def wait_until_ready(self) -> None:
        """Wait until the server is ready. Raises AssertionError with the log if it ends or takes too long."""
        ends_at = time.monotonic() + _STARTS_WITHIN_SECONDS
        while not self._is_ready():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < ends_at, self._log.read_text()
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)) as connection:
            try:
                connection.request("GET", "/api/v1/images/0/content")  # Any route of a module serves for this.
                return connection.getresponse().status < 500
            except OSError:
                return False


class Network:
    """A proxy in front of a process: sends every safe call twice, loses an answer on request, and can be down.

    The answer to the duplicate is dropped; a lost answer is lost after the work was done.
    """

    def __init__(self, port: int) -> None:
        self.duplicates: list[int] = []  # The status of each response.
        self.lost = 0
        self.loses_next = False
        self.is_down = False
        network = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if network.is_down:
                    self.close_connection = True
                    return
                status, content = self._forward(body)
                is_call = self.path.count("/") > 3  # Not for comparisons of contracts.
                if is_call and "Idempotency-Key" in self.headers:
                    network.duplicates.append(self._forward(body)[0])
                    if network.loses_next:
                        network.loses_next, network.lost = False, network.lost + 1
                        self.close_connection = True
                        return
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def _forward(self, body: bytes) -> tuple[int, bytes]:
                with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
                    connection.request("POST", self.path, body, dict(self.headers.items()))
                    answer = connection.getresponse()
                    return answer.status, answer.read()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the standard library's name
                pass

        class Listener(ThreadingHTTPServer):
            request_queue_size = 128  # With the library's default of 5, a burst of clients would be reset.

        self._server = Listener(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@dataclass
class Deployment:
    """The processes that serve the application, and their database."""

    events: Server
    images: Server
    network: Network | None
    database: URL | Path

    def empty(self) -> None:
        """Delete all rows, and lose the next answer between the processes."""
        if isinstance(self.database, Path):
            for file in self.database.glob("*.db"):
                _empty_sqlite(file)
        else:
            query(self.database, _EMPTY)
        if self.network is not None:
            self.network.loses_next = True

    def stop(self) -> None:
        self.events.stop()
        if self.network is not None:
            self.images.stop()
            self.network.stop()


def deploy(root: Path, folder: Path, migrated: str, server: URL | None, *, apart: bool) -> Deployment:
    """Serve a copy of the database at `migrated`: in one process or, if `apart`, with images in another."""
    variables = {
        "ENVIRONMENT": "dev",
        "AUTH_ENABLED": "false",
        "INTERNAL_SECRET": SECRET,
        "INTERNAL_COMPARE_SECONDS": "0.2",
        "MESSAGING_CHECK_SECONDS": "0.2",
    }
    variables |= {"IMAGES_STORAGE_URL": f"file://{folder / 'images'}", "HEALTH_CACHE_SECONDS": "0"}
    variables |= {"SERVER_DRAIN_SECONDS": "0", **PATIENT}  # No load balancer needs a drain.
    variables |= {"DATABASE_ROLE_PER_MODULE": "true", "APPLICATION_STRICT_CONTRACT_CALLS": "true"}
    database: URL | Path
    if server is None:
        database = folder / "data"
        shutil.copytree(migrated.removeprefix("sqlite:///"), database)
        variables["DATABASE_URL"] = f"sqlite:///{database}"
    else:
        template = migrated.rpartition("/")[2].partition("?")[0]
        name = f"{folder.name}_{template}"
        query(server, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        query(server, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        database = server.set(database=name)
        variables["DATABASE_URL"] = database.set(username=SERVING).render_as_string(hide_password=False)
        variables["DATABASE_ROLE_PREFIX"] = f"{template}."  # The tables of the copy belong to the same roles.
    if not apart:
        one = Server(root, folder / "log", variables)
        one.wait_until_ready()
        return Deployment(one, one, None, database)
    events_port = free_port()
    there = variables | {"EVENTS_URL": f"http://127.0.0.1:{events_port}"}
    images = Server(root, folder / "images.log", there, "images")
    network = Network(images.port)
    here = variables | {"IMAGES_URL": network.url}
    events = Server(root, folder / "events.log", here, "events,health", events_port)
    images.wait_until_ready()
    events.wait_until_ready()
    return Deployment(events, images, network, database)


def _empty_sqlite(file: Path) -> None:
    with closing(sqlite3.connect(file, timeout=30, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (name,) in names:
            if name != "alembic_version":
                connection.execute(f'DELETE FROM "{name}"')
        connection.execute("COMMIT")
