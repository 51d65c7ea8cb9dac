"""The connections of one session: none is handed out after its end, and none stays out."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.engine import Engine
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.pool import PoolProxiedConnection

from kernel.database.errors import SessionClosed


class Lease:
    """The pool connections that a session has out.

    A task that outlives the session gets SessionClosed instead of a connection, and `end` closes each connection that
    was not given back, also one that is busy.
    """

    def __init__(self) -> None:
        self.is_over = False
        self._out: list[PoolProxiedConnection] = []

    def check(self) -> None:
        """Raise SessionClosed after the end."""
        if self.is_over:
            raise SessionClosed

    def add(self, connection: PoolProxiedConnection) -> PoolProxiedConnection:
        """Note that the session has this connection. Raises SessionClosed, and gives it back, after the end."""
        if self.is_over:
            connection.close()
            raise SessionClosed
        self._out = [one for one in self._out if one.is_valid]
        self._out.append(connection)
        return connection

    def end(self) -> None:
        """Refuse further connections, and close those that are still out. Waits for nothing."""
        self.is_over = True
        out, self._out = self._out, []
        for connection in out:
            if connection.is_valid:
                connection.invalidate()


class SessionEngine(OptionEngine):
    """An engine whose connections belong to one session."""

    def __init__(self, engine: Engine, lease: Lease, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(engine, options or {})
        self._engine = engine
        self._lease = lease

    def execution_options(self, **options: Any) -> "SessionEngine":
        return SessionEngine(self, self._lease, options)

    def raw_connection(self) -> PoolProxiedConnection:
        self._lease.check()
        return self._lease.add(self._engine.raw_connection())
