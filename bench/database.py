"""This run's databases: PostgreSQL and SQLite files, migrated as in production, with the same rows in every run."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import asyncpg

from bench.apps.registry import APPS, Places, environment
from bench.data import EVENT_COLUMNS, EVENTS, IMAGE_COLUMNS, IMAGES, POOL_START, event_rows, image_rows, png
from bench.errors import BenchmarkError
from bench.machine import OTHER_CORE, pinned_to
from kernel.testing import create_database, postgresql_server

ROOT = Path(__file__).parent.parent


@contextmanager
def databases(folder: Path) -> Iterator[Places]:
    """Provide a PostgreSQL server with empty tables, SQLite files with rows, and a folder with the pictures' bytes."""
    with ExitStack() as stack:
        with pinned_to(OTHER_CORE):
            server = stack.enter_context(postgresql_server(folder / "postgresql"))
        places = Places(
            database_url=create_database(server, "bench").render_as_string(hide_password=False),
            sqlite_folder=folder / "sqlite",
            sqlite_file=folder / "control.db",
            images=folder / "images",
            logs=folder / "logs",
            postgresql=folder / "postgresql",
        )
        for path in (places.sqlite_folder, places.images, places.logs):
            path.mkdir()
        migrations = [_migrate(places, name) for name in ("ours", "ours-sqlite")]
        for migration in migrations:
            output, _ = migration.communicate()
            if migration.returncode:
                raise BenchmarkError(f"kernel migrate failed:\n{output}")
        _fill_sqlite(places)
        _write_pictures(places.images)
        yield places


def _migrate(places: Places, name: str) -> "subprocess.Popen[str]":
    command = [str(Path(sys.executable).parent / "kernel"), "migrate"]
    variables = environment(APPS[name], places)
    return subprocess.Popen(
        command, cwd=ROOT, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _fill_sqlite(places: Places) -> None:
    file = places.sqlite_folder / "events.db"
    connection = sqlite3.connect(file)
    rows = ([_as_sqlalchemy_stores(value) for value in row] for row in event_rows(1, EVENTS))
    marks = ", ".join("?" * len(EVENT_COLUMNS))
    connection.executemany(f"INSERT INTO events ({', '.join(EVENT_COLUMNS)}) VALUES ({marks})", rows)
    connection.commit()
    connection.execute("ANALYZE")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    shutil.copy(file, places.sqlite_file)


def _as_sqlalchemy_stores(value: Any) -> Any:
    match value:
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S.%f")
        case date():
            return value.isoformat()
        case time():
            return value.strftime("%H:%M:%S.%f")
    return value


def _write_pictures(folder: Path) -> None:
    for row in image_rows():
        for key in (row[7], row[8]):
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).write_bytes(png())


class Tables:
    """Changes the rows on PostgreSQL between the turns."""

    def __init__(self, connection: Any, server: Path) -> None:
        self._connection = connection
        # The log of the server, and its main process, the parent of its other processes.
        self.log = server / "log"
        self.server_pid = int((server / "postmaster.pid").read_text().split()[0])
        self._touched = False

    @classmethod
    @asynccontextmanager
    async def connect(cls, places: Places) -> "AsyncIterator[Tables]":
        """Connect and insert the rows."""
        url = places.database_url.replace("+asyncpg", "", 1)
        connection = await asyncpg.connect(url)
        try:
            tables = cls(connection, places.postgresql)
            # Turn autovacuum off, because background work would disturb the measurement.
            await connection.execute("ALTER SYSTEM SET autovacuum = off")
            await connection.execute("SELECT pg_reload_conf()")
            await tables._insert(1, EVENTS)
            await connection.copy_records_to_table(
                "images", schema_name="images", columns=IMAGE_COLUMNS, records=list(image_rows())
            )
            for name in ("events", "images"):
                await connection.execute(f"SELECT setval('{name}.{name}_id_seq', {EVENTS})")
            await connection.execute("VACUUM (ANALYZE) events.events, images.images")
            yield tables
        finally:
            await connection.close()

    async def reset(self, rows: int, *, will_write: bool = False) -> None:
        """Keep the shared rows, and add `rows` more to change or delete: version 1, ids from POOL_START on."""
        if self._touched:
            await self._connection.execute(f"DELETE FROM events.events WHERE id > {EVENTS}")
            await self._connection.execute(f"DELETE FROM images.images WHERE id > {IMAGES}")
        if rows:
            await self._insert(POOL_START, rows)
        if rows or self._touched:
            await self._connection.execute("VACUUM events.events, images.images")
        self._touched = bool(rows) or will_write

    async def log_statements(self, switched_on: bool) -> None:
        """Let the server log every statement, or none."""
        await self._connection.execute(f"ALTER SYSTEM SET log_min_duration_statement = {0 if switched_on else -1}")
        await self._connection.execute("SELECT pg_reload_conf()")

    async def connections_opened(self) -> int:
        """Return how many connections the database has accepted so far; the last second may be missing."""
        await self._connection.execute("SELECT pg_stat_clear_snapshot()")
        statement = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"
        opened: int = await self._connection.fetchval(statement)
        return opened

    async def _insert(self, first: int, count: int) -> None:
        await self._connection.copy_records_to_table(
            "events", schema_name="events", columns=EVENT_COLUMNS, records=list(event_rows(first, count))
        )

    async def server_version(self) -> str:
        """Return the server's version as PostgreSQL prints it."""
        version: str = await self._connection.fetchval("SHOW server_version")
        return version
