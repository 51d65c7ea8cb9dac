"""Engines by URL, shared between modules, and each module's view of its own tables."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.engine import URL, Connection, ExceptionContext
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, UOWTransaction
from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection, StaticPool

from kernel.database.errors import DatabaseUnavailable, ReadOnlySession, is_outage
from kernel.settings import DatabaseConfig, ModuleSettings

# A writer of SQLite holds the whole file, so a second connection for writing could only wait inside SQLite, where
# waiting is neither fair nor cancellable; in the pool's queue it is both.
_SQLITE_WRITERS = 1
_AFTER_COMMIT = "kernel.after_commit"


@dataclass(frozen=True)
class Placement:
    """Where a module's tables live: a schema of a PostgreSQL database, or a SQLite file."""

    url: URL
    read_url: URL
    schema: str | None

    @classmethod
    def of(cls, module: str | None, config: DatabaseConfig, own: ModuleSettings | None, root: Path) -> "Placement":
        """Where `module` lives by the settings; without a module, the shared database itself."""
        own_url = own.get_url() if own else None
        if own is not None and own_url is not None:
            url, read_url = own_url, own.get_read_url() or own_url
        else:
            url = _file_of(module, config.get_url())
            read_url = _file_of(module, config.get_read_url())
        schema = module if url.get_backend_name() == "postgresql" else None
        return cls(_absolute(url, root), _absolute(read_url, root), schema)

    @property
    def is_in_memory(self) -> bool:
        return self.url.get_backend_name() == "sqlite" and self.url.database in {None, "", ":memory:"}


def _file_of(module: str | None, url: URL) -> URL:
    """On SQLite the shared URL names a folder, with a file for each module."""
    if module is None or url.get_backend_name() != "sqlite" or url.database in {None, "", ":memory:"}:
        return url
    return url.set(database=str(Path(str(url.database)) / f"{module}.db"))


def _absolute(url: URL, root: Path) -> URL:
    if url.get_backend_name() != "sqlite" or url.database in {None, "", ":memory:"}:
        return url
    return url.set(database=str(root / str(url.database)))


class _BoundedPool(AsyncAdaptedQueuePool):
    """A pool whose failures to hand out a connection have one type.

    asyncpg raises OSError, TimeoutError or errors of its own while connecting, none of which SQLAlchemy wraps.
    """

    def connect(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except PoolTimeout as error:
            raise DatabaseUnavailable("all connections of the database pool are in use") from error
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise DatabaseUnavailable(f"the database cannot be reached ({type(error).__name__})") from error


class Database:
    """One module's view of its database: it can name its own tables and no others."""

    def __init__(self, placement: Placement, writer: AsyncEngine, reader: AsyncEngine) -> None:
        self.placement = placement
        options: dict[str, Any] = {}
        if placement.schema is not None:
            options["schema_translate_map"] = {None: placement.schema}
        self.writer = writer.execution_options(**options)
        self.reader = reader.execution_options(isolation_level="AUTOCOMMIT", **options)
        self._transactions = async_sessionmaker(self.writer, expire_on_commit=False)
        self._reads = async_sessionmaker(self.reader, expire_on_commit=False, sync_session_class=_ReadSession)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A session that commits at the end of the block, or rolls back on an exception.

        It takes a connection at its first statement, not before.
        """
        async with self._transactions() as session:
            async with session.begin():
                yield session
            for action in session.info.get(_AFTER_COMMIT, ()):
                await action()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session without a transaction: each statement sees what is committed when it runs."""
        async with self._reads() as session:
            yield session

    async def check(self) -> None:
        """Ask both databases for an answer. Raises DatabaseUnavailable."""
        for engine in {id(engine.sync_engine.pool): engine for engine in (self.writer, self.reader)}.values():
            # On SQLite a transaction would wait for the writer of the moment, who is no sign of ill health.
            async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                await connection.execute(text("SELECT 1"))


def after_commit(session: AsyncSession, action: Callable[[], Awaitable[None]]) -> None:
    """Run `action` once the session's transaction is committed, and not at all if it is not.

    For what a rollback could not undo. A crash in between skips it, so it must be something that may be left undone.
    """
    session.info.setdefault(_AFTER_COMMIT, []).append(action)


class _ReadSession(Session):
    """The synchronous core of a read session."""


@event.listens_for(_ReadSession, "before_flush")
def _refuse_to_write(session: Session, _context: UOWTransaction, _instances: Any) -> None:
    if session.new or session.dirty or session.deleted:
        raise ReadOnlySession


def is_read_only(session: AsyncSession) -> bool:
    """Whether `session` is a read session."""
    return isinstance(session.sync_session, _ReadSession)


class AsyncDBPool:
    """The engines of one application: modules with the same URL share one engine and one pool of connections."""

    def __init__(
        self, config: DatabaseConfig, modules: Mapping[str, ModuleSettings] | None = None, root: Path | None = None
    ) -> None:
        self._config = config
        self._modules = modules or {}
        self._root = root or Path.cwd()
        self._engines: dict[tuple[URL, bool], AsyncEngine] = {}
        self._databases: dict[str | None, Database] = {}

    def database(self, module: str | None = None) -> Database:
        """The view of `module`; without one, of the shared database as it is."""
        if module not in self._databases:
            placement = Placement.of(module, self._config, self._modules.get(module or ""), self._root)
            writer = self._engine(placement.url, writes=True)
            reader = writer if placement.is_in_memory else self._engine(placement.read_url, writes=False)
            self._databases[module] = Database(placement, writer, reader)
        return self._databases[module]

    @asynccontextmanager
    async def get_session(self, module: str | None = None) -> AsyncIterator[AsyncSession]:
        """A session in a transaction that commits at the end of the block."""
        async with self.database(module).transaction() as session:
            yield session

    async def close(self) -> None:
        """Close every connection. The pool can be used again afterwards."""
        engines = list(self._engines.values())
        self._engines.clear()
        self._databases.clear()
        for engine in engines:
            await engine.dispose()

    def _engine(self, url: URL, *, writes: bool) -> AsyncEngine:
        on_sqlite = url.get_backend_name() == "sqlite"
        key = (url, writes and on_sqlite)  # on PostgreSQL, reads and writes share one pool
        if key not in self._engines:
            make = _sqlite_engine if on_sqlite else _postgresql_engine
            self._engines[key] = make(url, self._config, writes)
        return self._engines[key]


def _postgresql_engine(url: URL, config: DatabaseConfig, _writes: bool) -> AsyncEngine:
    engine = create_async_engine(
        url,
        poolclass=_BoundedPool,
        pool_size=config.pool_size,
        max_overflow=config.max_overflow,
        pool_timeout=config.pool_timeout_seconds,
        pool_recycle=config.pool_recycle_seconds,
        pool_pre_ping=config.pool_pre_ping,
        pool_use_lifo=True,  # idle connections age out instead of taking turns
        skip_autocommit_rollback=True,
        hide_parameters=True,  # an error in the log must not show what a caller sent
        connect_args={
            "timeout": config.connect_timeout_seconds,
            "command_timeout": config.command_timeout_seconds,
        },
    )
    event.listen(engine.sync_engine, "handle_error", _explain_outage)
    return engine


def _sqlite_engine(url: URL, config: DatabaseConfig, writes: bool) -> AsyncEngine:
    in_memory = url.database in {None, "", ":memory:"}
    if not in_memory:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"poolclass": StaticPool}
    if not in_memory:
        size = _SQLITE_WRITERS if writes else config.pool_size
        options = {
            "poolclass": _BoundedPool,
            "pool_size": size,
            "max_overflow": 0 if writes else config.max_overflow,
            "pool_timeout": config.pool_timeout_seconds,
        }
    engine = create_async_engine(
        url,
        connect_args={"isolation_level": None},  # we say BEGIN ourselves; the driver would, later and without IMMEDIATE
        # SQLAlchemy takes a connection that says BEGIN itself to be in autocommit, also while a transaction is open.
        skip_autocommit_rollback=not writes,
        hide_parameters=True,
        **options,
    )

    def prepare(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        # The order matters: changing the journal's mode may itself have to wait.
        cursor.execute(f"PRAGMA busy_timeout = {int(config.busy_timeout_seconds * 1000)}")
        cursor.execute("PRAGMA journal_mode = WAL")
        # Safe with WAL: a power cut may lose the last commits, never the file (https://sqlite.org/pragma.html).
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    def begin(connection: Connection) -> None:
        # Without IMMEDIATE two transactions that read and then write overwrite each other or fail half way.
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine.sync_engine, "connect", prepare)
    event.listen(engine.sync_engine, "begin", begin)
    event.listen(engine.sync_engine, "handle_error", _explain_outage)
    return engine


def _explain_outage(context: ExceptionContext) -> None:
    """Give every sign of an outage during a statement one type; asyncpg raises some of them bare."""
    if context.is_pre_ping:  # the pool handles these: it connects anew
        return
    error = context.original_exception
    if context.connection is None:
        raise DatabaseUnavailable(f"the database cannot be reached ({type(error).__name__})") from error
    if isinstance(error, OSError | TimeoutError) or context.is_disconnect or is_outage(error):
        raise DatabaseUnavailable(f"the database gave no answer ({type(error).__name__})") from error
