"""A real PgBouncer in front of a test's database."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import URL

from tests.brokers.servers import Server, path_of, require


class PgBouncer(Server):
    """A pooler on a port of its own, in transaction mode unless `settings` say otherwise.

    It connects to the database as the user of the URL, whichever user connects to the pooler.
    """

    package = binary = "pgbouncer"

    def __init__(self, folder: Path, database: URL, **settings: str | int) -> None:
        super().__init__(folder)
        self._database = database
        values = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            **settings,
        }
        route = f"host={database.query['host']} dbname={database.database} user={database.username}"
        lines = ["[databases]", f"bounced = {route}", "[pgbouncer]", *(f"{key} = {one}" for key, one in values.items())]
        (folder / "pgbouncer.ini").write_text("\n".join([*lines, ""]))

    @property
    def url(self) -> str:
        through = self._database.set(host="127.0.0.1", port=self.port, query={}, database="bounced")
        return through.render_as_string(hide_password=False)

    def command(self) -> list[str]:
        """Return the command.

        The pooler refuses to run as root, and the user of the database's own socket may open it.
        """
        user = ["-u", Path(str(self._database.query["host"])).owner()] if os.getuid() == 0 else []
        return [path_of(self.binary), *user, str(self.folder / "pgbouncer.ini")]


@contextmanager
def pgbouncer(database: URL, folder: Path, **settings: str | int) -> Iterator[PgBouncer]:
    """Run a PgBouncer; skip the test if it is not installed, and fail it in CI."""
    require(PgBouncer)
    server = PgBouncer(folder, database, **settings)
    server.start()
    try:
        yield server
    finally:
        server.close()
