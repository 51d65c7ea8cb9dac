"""Where modules live: engines by URL, shared between modules, and each module's view of its own tables."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from kernel.database.engines import ConnectionPool, is_file, postgresql_engine, sqlite_engine
from kernel.database.errors import PoolExhausted
from kernel.database.runner import Rows
from kernel.database.session import Action, ReadSession, Runnable, WriteSession, enter, leave
from kernel.running import OnClassToo
from kernel.settings import DatabaseConfig, ModuleSettings


@dataclass(frozen=True)
class Placement:
    """Where a module's tables live: a schema of a PostgreSQL database, or a SQLite file."""

    url: URL
    read_url: URL
    schema: str | None
    # Past a pooler, for migrations and LISTEN.
    direct_url: URL

    @property
    def is_in_memory(self) -> bool:
        return self.url.get_backend_name() == "sqlite" and not is_file(self.url)


def _file_of(module: str | None, url: URL) -> URL:
    """On SQLite the shared URL names a folder, with a file for each module."""
    return url.set(database=f"{url.database}/{module}.db") if module is not None and is_file(url) else url


def _absolute(url: URL, root: Path) -> URL:
    return url.set(database=str(root / str(url.database))) if is_file(url) else url


class Database:
    """One module's view of its database: it can name its own tables and no others.

    An extension may open sessions of its own from a derived class, see AsyncDBPool.database_class.
    """

    def __init__(self, pool: "AsyncDBPool", module: str | None) -> None:
        """Use the engines of the pool, or an extension's view of them."""
        self.placement = placement = pool.placement(module)
        # A pooler may change the server connection after each transaction.
        self.pooled_by_transaction = pool.config.pooler == "transaction" and placement.schema is not None
        # Objects that extensions keep for the database of this module, by type.
        self.values: dict[type, Any] = {}
        writer = pool.engine(placement.url, writes=True)
        reader = writer if placement.is_in_memory else pool.engine(placement.read_url, writes=False)
        self._engines = (writer, reader)
        own_writer, own_reader = (pool.engine_of_module(module, engine) for engine in self._engines)
        options: dict[str, Any] = {}
        if placement.schema is not None:
            options["schema_translate_map"] = {None: placement.schema}
        # A statement is prepared in one step and run in another, which such a pooler keeps together in transactions.
        self._alone: dict[str, Any] = {} if self.pooled_by_transaction else {"isolation_level": "AUTOCOMMIT"}
        self.writer = own_writer.execution_options(**options)
        self.reader = own_reader.execution_options(**self._alone, **options)
        # PostgreSQL sends rows one by one in a transaction only; on SQLite that would keep the file from its writer.
        self.streaming = own_reader.execution_options(**options) if placement.schema else self.reader

    def new_reader(self) -> ReadSession:
        """Return a session for reads."""
        return ReadSession(self.reader, self.streaming)

    def new_writer(self) -> WriteSession:
        """Return a session for one transaction."""
        return WriteSession(self.writer)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        """Open a session that commits at the end of the block, or rolls back on an exception.

        It takes a connection at its first statement, not before.
        """
        session = self.new_writer()
        session.values = self.values
        enter(session)
        try:
            yield session
            for action in session.before_commit:
                await action()
            await session.finish()
        finally:
            leave(session)
            await session.release()
        for action in session.after_commit:
            await action()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[ReadSession]:
        """Open a session without a transaction: each statement sees what is committed when it runs."""
        session = self.new_reader()
        enter(session)
        try:
            yield session
        finally:
            leave(session)
            await session.release()

    async def run(self, statement: Runnable, params: Mapping[str, Any] | None = None) -> Rows:
        """Return the rows of one statement that is a transaction of its own."""
        async with self.transaction() as session:
            return await session.rows(statement, params)

    async def check(self) -> None:
        """Ask both databases for an answer, in no module's name.

        Raises DatabaseUnavailable; PoolExhausted, which is one, if they answer and no connection is left here.
        """
        engines = {id(engine.sync_engine.pool): engine for engine in self._engines}.values()
        found = await asyncio.gather(*(_check(one, self._alone) for one in engines), return_exceptions=True)
        failures = [one for one in found if one is not None]
        if failures:
            raise min(failures, key=lambda one: isinstance(one, PoolExhausted))


async def _check(engine: AsyncEngine, options: Mapping[str, Any]) -> None:
    pool = engine.sync_engine.pool
    if isinstance(pool, ConnectionPool) and await pool.check_aside():
        return
    # On SQLite a transaction would wait for the present writer, which is no sign of ill health.
    async with engine.execution_options(**options).connect() as connection:
        await connection.execute(text("SELECT 1"))


def before_commit(session: AsyncSession, action: Action) -> None:
    """Run `action` as the last of the session's transaction; what it raises rolls all back. Raises as after_commit."""
    _transaction(session).before_commit.append(action)


def after_commit(session: AsyncSession, action: Action) -> None:
    """Run `action` once the session's transaction is committed, and not at all if it is not.

    For what a rollback could not undo. A crash in between skips it, so it must be something that may be left undone.
    Raises TypeError for a session that is not the kernel's.
    """
    _transaction(session).after_commit.append(action)


def _transaction(session: AsyncSession) -> WriteSession:
    if not isinstance(session, WriteSession):
        raise TypeError("this needs a session of Database.transaction, which runs what is to happen at the commit")
    return session


@dataclass(frozen=True)
class ModuleRole:
    """The database roles of one module: `name` runs its statements, `owner` its migrations."""

    name: str
    owner: str
    # How the roles are made.
    advice: str
    # SQL that keeps `name` from changing which migrations are applied.
    protection: str
    # Returns the one of both that the user of a connection may take.
    allowed: Callable[[asyncpg.Connection], Awaitable[str]]


class AsyncDBPool:
    """The engines of one application: modules with the same URL share one engine and one pool of connections.

    An extension sets the attributes below before the first engine is made.
    """

    def __init__(
        self,
        config: DatabaseConfig,
        modules: Mapping[str, ModuleSettings] | None = None,
        root: Path | None = None,
        with_tables: Collection[str] = (),
    ) -> None:
        self.config = config
        self.with_tables = with_tables
        self.pool_class: type[ConnectionPool] = ConnectionPool
        self.database_class: type[Database] = Database
        # Called with every new engine.
        self.on_engine: list[Callable[[AsyncEngine], None]] = []
        # Returns the engine through which a module (None: no module) uses a pool.
        self.engine_of_module: Callable[[str | None, AsyncEngine], AsyncEngine] = lambda _, engine: engine
        # Returns the database roles of a module; None on SQLite. Without it no module has roles of its own.
        self.roles: Callable[[str], ModuleRole | None] | None = None
        self.modules = modules or {}
        self._root = root or Path.cwd()
        # By URL; a file of SQLite has a second one for its writer.
        self.engines: dict[tuple[URL, bool], AsyncEngine] = {}
        self._databases: dict[str | None, Database] = {}

    def database(self, module: str | None = None) -> Database:
        """Return the view of `module`; without one, of the shared database as it is."""
        if module not in self._databases:
            self._databases[module] = self.database_class(self, module)
        return self._databases[module]

    @asynccontextmanager
    async def _get_session(self, module: str | None = None) -> AsyncIterator[AsyncSession]:
        """Open a session in a transaction that commits at the end of the block.

        Called on the class, it is the pool of the one application that runs in this process.
        """
        async with self.database(module).transaction() as session:
            yield session

    get_session = OnClassToo(_get_session, "pool")

    def placement(self, module: str | None) -> Placement:
        """Return where the tables of `module` are by the settings; without one, where the shared database is."""
        config, own = self.config, self.modules.get(module or "")
        if own is not None and (own_url := own.get_url()) is not None:
            urls = (own_url, own.get_read_url() or own_url, own.get_direct_url() or own_url)
        else:
            url, read_url, direct_url = config.get_url(), config.get_read_url(), config.get_direct_url()
            urls = (_file_of(module, url), _file_of(module, read_url), _file_of(module, direct_url))
        url, read_url, direct_url = (_absolute(one, self._root) for one in urls)
        return Placement(url, read_url, module if url.get_backend_name() == "postgresql" else None, direct_url)

    async def close(self) -> None:
        """Close every connection. The pool can be used again afterwards."""
        for engine in self.engines.values():
            await engine.dispose()

    def engine(self, url: URL, *, writes: bool) -> AsyncEngine:
        """Return the engine of a database, which all its modules share."""
        on_sqlite = url.get_backend_name() == "sqlite"
        key = (url, writes and on_sqlite)  # on PostgreSQL, reads and writes share one pool
        if key not in self.engines:
            engine = (
                sqlite_engine(url, self.config, self.pool_class, writes=writes)
                if on_sqlite
                else postgresql_engine(url, self.config, self.pool_class)
            )
            for listen in self.on_engine:
                listen(engine)
            self.engines[key] = engine
        return self.engines[key]
