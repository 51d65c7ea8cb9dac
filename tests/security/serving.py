"""The application as one process on a real socket, and the exact bytes on that socket."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.harness import KERNEL, end, free_port

_START_SECONDS = 30


@dataclass(frozen=True)
class Answer:
    """The bytes of a connection until it was closed."""

    raw: bytes
    # Whether the server closed the connection before the deadline.
    is_closed: bool

    @property
    def statuses(self) -> tuple[int, ...]:
        """Return the status of each response. Several responses mean that the server read several requests."""
        lines = (part.split(b"\r\n", 1)[0].split() for part in self.raw.split(b"HTTP/1.1 ")[1:])
        return tuple(int(words[0]) for words in lines if words and words[0].isdigit())

    @property
    def body(self) -> bytes:
        """Return everything behind the first head."""
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def head(self) -> str:
        """Return the first head."""
        return self.raw.partition(b"\r\n\r\n")[0].decode("latin-1")

    def headers(self, name: str) -> list[str]:
        """Return every value of a header of the first response."""
        pairs = (line.partition(":") for line in self.head.split("\r\n")[1:])
        return [value.strip() for key, _, value in pairs if key.lower() == name.lower()]


@dataclass(frozen=True)
class Served:
    """A running `kernel serve`."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def send(self, *parts: bytes, seconds: float = 10, cut: bool = False) -> Answer:
        """Send bytes and read until the server closes. `cut`: close the sending side, so that no more data follows."""
        received = bytearray()
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            deadline = time.monotonic() + seconds
            try:
                for part in parts:
                    connection.sendall(part)
                if cut:
                    connection.shutdown(socket.SHUT_WR)
                while (left := deadline - time.monotonic()) > 0:
                    connection.settimeout(left)
                    piece = connection.recv(1 << 16)
                    if not piece:
                        return Answer(bytes(received), is_closed=True)
                    received += piece
            except ConnectionError:  # The server closed during the send.
                return Answer(bytes(received), is_closed=True)
            except TimeoutError:
                pass
        return Answer(bytes(received), is_closed=False)

    def is_alive(self) -> bool:
        """Return whether the server answers an ordinary request."""
        return self.send(request("GET", "/health/live")).statuses == (200,)

    def said(self, since: int = 0) -> str:
        """Return the log from a byte on, without the paths of the access log, which contain the secret."""
        lines = []
        for line in self.log.read_bytes()[since:].decode(errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                lines.append(line)
                continue
            if entry.get("event") == "request":
                entry.pop("path")
            lines.append(json.dumps(entry))
        return "\n".join(lines)

    def memory_bytes(self) -> int:
        """Return the memory of the process and its children (Linux)."""
        own = self.process.pid
        children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        statuses = (Path(f"/proc/{pid}/status") for pid in (own, *children))
        return sum(_resident(path) for path in statuses)


def _resident(status: Path) -> int:
    try:
        lines = status.read_text().splitlines()
    except OSError:  # It has ended in the meantime.
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))


@contextmanager
def served(root: Path, folder: Path, database_url: str, **variables: str) -> Iterator[Served]:
    """Serve the project at `root` on a database of its own with one process until the end of the block."""
    port = free_port()
    settings = {
        "ENVIRONMENT": "local",
        "DATABASE_URL": database_url,
        "IMAGES_STORAGE_URL": f"file://{folder / 'images'}",
        "SERVER_RELOAD": "false",
        "SERVER_PORT": str(port),
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "DEBUG",
        **variables,
    }
    log = folder / "served.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [KERNEL, "serve"],
            cwd=root,
            env={**os.environ, **settings},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    server = Served(process, port, log)
    try:
        _wait(server)
        yield server
    finally:
        end(process)


def _wait(server: Served) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if server.is_alive():
                return
        except ConnectionError:
            time.sleep(0.05)
    raise RuntimeError(f"it does not serve:\n{server.log.read_text()[-3000:]}")


def request(
    method: str,
    target: str | bytes,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    host: str = "localhost",
) -> bytes:
    """Return a valid request except for the changes in the arguments; its response is the last on the connection."""
    raw = target if isinstance(target, bytes) else target.encode("utf-8", "surrogateescape")
    lines = [method.encode() + b" " + raw + b" HTTP/1.1", b"Host: " + host.encode(), b"Connection: close"]
    lines += [f"{name}: {value}".encode("utf-8", "surrogateescape") for name, value in (headers or {}).items()]
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
