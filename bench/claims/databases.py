"""A PostgreSQL server that is reachable over a Unix socket and, like a deployed one, over TCP with a password."""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy.engine import URL

from bench.claims.processes import free_port
from kernel.testing import create_database, pgserver, postgresql_server

_ROLE = "bench"
_PASSWORD = "only-for-measuring"  # noqa: S105  # of a server that lives as long as the measurement
# This line must precede initdb's own lines, because the first matching line applies and theirs trust everyone.
_ACCESS = f"host all {_ROLE} 127.0.0.1/32 scram-sha-256\n"


@dataclass(frozen=True)
class Server:
    """A running server."""

    # The administrative database over the Unix socket, without a password.
    url: URL
    # The same database over TCP on loopback with a password (SCRAM); None if the server could not listen there.
    tcp_url: URL | None

    def create_database(self, name: str) -> URL:
        """Create an empty database, and return its URL over the Unix socket."""
        return create_database(self.url, name)


@contextmanager
def postgresql(name: str, *, over_tcp: bool = False) -> Iterator[Server]:
    """Start a server. At the end of the block, stop it and delete its data."""
    folder = Path(tempfile.gettempdir()) / name
    try:
        port = _listen(folder) if over_tcp else None
        with postgresql_server(folder) as url:
            if port is None:
                yield Server(url, None)
            else:
                with_port = url.update_query_dict({"port": str(port)})  # The file also names the socket.
                yield Server(with_port, asyncio.run(_with_password(with_port, port)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".lock").unlink(missing_ok=True)


def _listen(folder: Path) -> int | None:
    """Start the server with a port, before the kernel's helper starts it without one. Return None if it refuses."""
    folder.mkdir()
    server: Any = pgserver.get_server(folder, cleanup_mode="stop", start=False)
    server.ensure_pgdata_inited()
    access = folder / "pg_hba.conf"
    access.write_text(_ACCESS + access.read_text())
    port = free_port()
    options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c synchronous_commit=off -c max_connections=300"
    try:
        pgserver.pgexec.pgexec(
            "pg_ctl",
            ("-w", "-o", options, "-l", str(folder / "log"), "-D", str(folder), "start"),
            bin_path=server.bin_path,
            user=server.system_user,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return port


async def _with_password(url: URL, port: int) -> URL:
    connection = await asyncpg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        await connection.execute(f"CREATE ROLE {_ROLE} LOGIN SUPERUSER PASSWORD '{_PASSWORD}'")
    finally:
        await connection.close()
    return URL.create("postgresql+asyncpg", _ROLE, _PASSWORD, "127.0.0.1", port, url.database)
