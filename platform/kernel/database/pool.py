"""Where modules live: engines by URL, shared between modules, and each module's view of its own tables."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from kernel.database.engines import is_file, postgresql_engine, sqlite_engine
from kernel.database.errors import PoolExhausted
from kernel.database.server_session import place_of
from kernel.database.session import Action, ReadSession, Runnable, WriteSession, enter, leave
from kernel.ext.fast.driver import Direct, Rows
from kernel.ext.pool.bounded_pool import BoundedPool
from kernel.ext.pool.quota import Tenant, TenantEngine
from kernel.ext.roles.roles import Role, role_name
from kernel.settings import DatabaseConfig, ModuleSettings


@dataclass(frozen=True)
class Placement:
    """Where a module's tables live: a schema of a PostgreSQL database, or a SQLite file."""

    url: URL
    read_url: URL
    schema: str | None
    # Past a pooler, for migrations and LISTEN.
    direct_url: URL

    @classmethod
    def of(cls, module: str | None, config: DatabaseConfig, own: ModuleSettings | None, root: Path) -> "Placement":
        """Where `module` lives by the settings; without a module, the shared database itself."""
        own_url = own.get_url() if own else None
        if own is not None and own_url is not None:
            url, read_url, direct_url = own_url, own.get_read_url() or own_url, own.get_direct_url() or own_url
        else:
            url, read_url, direct_url = (
                _file_of(module, one) for one in (config.get_url(), config.get_read_url(), config.get_direct_url())
            )
        schema = module if url.get_backend_name() == "postgresql" else None
        return cls(_absolute(url, root), _absolute(read_url, root), schema, _absolute(direct_url, root))

    @property
    def is_in_memory(self) -> bool:
        return self.url.get_backend_name() == "sqlite" and not is_file(self.url)


def _file_of(module: str | None, url: URL) -> URL:
    """On SQLite the shared URL names a folder, with a file for each module."""
    return url.set(database=f"{url.database}/{module}.db") if module is not None and is_file(url) else url


def _absolute(url: URL, root: Path) -> URL:
    return url.set(database=str(root / str(url.database))) if is_file(url) else url


class Database:
    """One module's view of its database: it can name its own tables and no others."""

    def __init__(
        self,
        placement: Placement,
        writer: AsyncEngine,
        reader: AsyncEngine,
        tenants: tuple[Tenant | None, Tenant | None] = (None, None),
        *,
        direct: bool = True,
        pooled_by_transaction: bool = False,
    ) -> None:
        """Name the module as the user of the writer's pool, and of the reader's, in `tenants`.

        `pooled_by_transaction`: a pooler may change the server connection after each transaction.
        """
        self.placement = placement
        # What extensions keep for the database of this module, by its type.
        self.values: dict[type, Any] = {}
        self._engines = (writer, reader)
        # The module's share of the writer's pool, if it is limited.
        self.turns = tenants[0].turns if tenants[0] is not None else None
        options: dict[str, Any] = {}
        if placement.schema is not None:
            options["schema_translate_map"] = {None: placement.schema}
        self.writer = _of_tenant(writer, tenants[0], options)
        # A statement is prepared in one step and run in another, which such a pooler keeps together in transactions.
        self._alone: dict[str, Any] = {} if pooled_by_transaction else {"isolation_level": "AUTOCOMMIT"}
        self.reader = _of_tenant(reader, tenants[1], self._alone | options)
        # PostgreSQL sends rows one by one in a transaction only; on SQLite that would keep the file from its writer.
        self._streaming = _of_tenant(reader, tenants[1], options) if placement.schema else self.reader
        pooled = isinstance(reader.sync_engine.pool, BoundedPool)
        self._direct_reads = Direct(self.reader.sync_engine) if direct and pooled else None
        # On SQLite a transaction is in SQLAlchemy's hands alone: waiting for the file costs more than that saves.
        on_postgresql = placement.schema is not None or writer.dialect.name == "postgresql"
        self._direct_writes = Direct(self.writer.sync_engine) if direct and on_postgresql else None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        """A session that commits at the end of the block, or rolls back on an exception.

        It takes a connection at its first statement, not before.
        """
        session = WriteSession(self.writer, self._direct_writes)
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
        """A session without a transaction: each statement sees what is committed when it runs."""
        session = ReadSession(self.reader, self._direct_reads, self._streaming)
        enter(session)
        try:
            yield session
        finally:
            leave(session)
            await session.release()

    async def run(self, statement: Runnable, params: Mapping[str, Any] | None = None) -> Rows:
        """The rows of one statement that is a transaction of its own: on PostgreSQL in a single round trip."""
        if self._direct_writes is not None:
            session = ReadSession(self.writer, self._direct_writes)
            rows = await session.fetch(statement, params)
            if rows is not None:
                return rows
        async with self.transaction() as transaction:
            return await transaction.rows(statement, params)

    async def check(self) -> None:
        """Ask both databases for an answer, in no module's name.

        Raises DatabaseUnavailable; PoolExhausted, which is one, where they do answer and we have no connection left.
        """
        engines = {id(engine.sync_engine.pool): engine for engine in self._engines}.values()
        found = await asyncio.gather(*(_check(one, self._alone) for one in engines), return_exceptions=True)
        failures = [one for one in found if one is not None]
        if failures:
            raise min(failures, key=lambda one: isinstance(one, PoolExhausted))


async def _check(engine: AsyncEngine, options: Mapping[str, Any]) -> None:
    pool = engine.sync_engine.pool
    if isinstance(pool, BoundedPool) and pool.is_full:
        await pool.check_aside()
        return
    # On SQLite a transaction would wait for the writer of the moment, who is no sign of ill health.
    async with engine.execution_options(**options).connect() as connection:
        await connection.execute(text("SELECT 1"))


def _of_tenant(engine: AsyncEngine, tenant: Tenant | None, options: dict[str, Any]) -> AsyncEngine:
    return AsyncEngine(TenantEngine(engine.sync_engine, tenant, options))


class Usage(NamedTuple):
    """How many connections are in use, idle and allowed, how many wait for one, and how many are above the size."""

    name: str
    in_use: int = 0
    idle: int = 0
    limit: int = 0
    waiting: int = 0
    overflow: int = 0


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


class AsyncDBPool:
    """The engines of one application: modules with the same URL share one engine and one pool of connections."""

    def __init__(
        self,
        config: DatabaseConfig,
        modules: Mapping[str, ModuleSettings] | None = None,
        root: Path | None = None,
        with_tables: Collection[str] = (),
    ) -> None:
        """Where several modules `with_tables` share a pool, each module may hold its share of it and no more."""
        # Each is called with every new engine.
        self.on_engine: list[Callable[[AsyncEngine], None]] = []
        self._config = config
        self._modules = modules or {}
        self._root = root or Path.cwd()
        self._engines: dict[tuple[URL, bool], AsyncEngine] = {}
        self._databases: dict[str | None, Database] = {}
        self._with_tables = with_tables
        placements = [self._placement(module) for module in with_tables]
        self._users = Counter(url for one in placements for url in {one.url, one.read_url})

    def database(self, module: str | None = None) -> Database:
        """The view of `module`; without one, of the shared database as it is."""
        if module not in self._databases:
            placement = self._placement(module)
            writer = self._engine(placement.url, writes=True)
            reader = writer if placement.is_in_memory else self._engine(placement.read_url, writes=False)
            by_transaction = self._config.pooler == "transaction"
            writes = self._tenant(module, placement.url)
            reads = writes if reader is writer else self._tenant(module, placement.read_url)
            self._databases[module] = Database(
                placement,
                writer,
                reader,
                (writes, reads),
                direct=self._config.direct_statements and not (by_transaction and placement.schema),
                pooled_by_transaction=by_transaction and placement.schema is not None,
            )
        return self._databases[module]

    def role(self, module: str) -> Role | None:
        """The module's PostgreSQL role, which it has if `role_per_module` is set; None on SQLite. Raises RoleError."""
        placement = self._placement(module)
        if placement.schema is None:
            return None
        name = role_name(module, placement.url, self._config)
        schema = placement.schema if module in self._with_tables else None
        return Role(name, module, placement.url, schema, placement.direct_url)

    @asynccontextmanager
    async def get_session(self, module: str | None = None) -> AsyncIterator[AsyncSession]:
        """A session in a transaction that commits at the end of the block."""
        async with self.database(module).transaction() as session:
            yield session

    def usage(self) -> Iterator[Usage]:
        """Of the pools, by database: those of several users of one, or of its readers and its writer, together."""
        found: dict[str, Usage] = {}
        for (url, _), engine in self._engines.items():
            if isinstance(pool := engine.sync_engine.pool, BoundedPool):
                name, (in_use, *others) = place_of(url), pool.usage()
                numbers = (in_use, *others, max(0, in_use - pool.size()))
                found[name] = Usage(name, *map(sum, zip(found.get(name, Usage(name))[1:], numbers, strict=True)))
        yield from found.values()

    def shares(self) -> Iterator[Usage]:
        """Of each module that may hold only a share of its pool."""
        for name, database in self._databases.items():
            turns = database.turns
            if name is not None and turns is not None:
                overflow = max(0, turns.in_use - self._config.pool_size)  # were there no other module
                yield Usage(name, turns.in_use, 0, turns.limit, turns.waiting, overflow)

    async def close(self) -> None:
        """Close every connection. The pool can be used again afterwards."""
        for engine in self._engines.values():
            pool = engine.sync_engine.pool
            await engine.dispose()
            if isinstance(pool, BoundedPool):
                await pool.closed()

    def _placement(self, module: str | None) -> Placement:
        return Placement.of(module, self._config, self._modules.get(module or ""), self._root)

    def _tenant(self, module: str | None, url: URL) -> Tenant | None:
        """The module as a user of the pool at `url`; None where it needs neither a role nor a limit."""
        if module is None or url.get_backend_name() == "sqlite":
            return None
        config = self._config
        role = self.role(module) if config.role_per_module else None
        others = self._users[url] - (module in self._with_tables)
        limit = max(1, (config.pool_size + config.max_overflow) * config.pool_share_percent // 100) if others else None
        if role is None and limit is None:
            return None
        name, is_local = role.name if role else None, config.pooler == "transaction"
        seconds = config.pool_share_timeout_seconds
        return Tenant(module, None if is_local else name, limit, seconds, name if is_local else None)

    def _engine(self, url: URL, *, writes: bool) -> AsyncEngine:
        on_sqlite = url.get_backend_name() == "sqlite"
        key = (url, writes and on_sqlite)  # on PostgreSQL, reads and writes share one pool
        if key not in self._engines:
            self._engines[key] = (
                sqlite_engine(url, self._config, writes=writes) if on_sqlite else postgresql_engine(url, self._config)
            )
            for tell in self.on_engine:
                tell(self._engines[key])
        return self._engines[key]
