"""One Alembic history per module, safe to apply from many processes at once."""

import asyncio
import hashlib
import io
import time
import traceback
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import structlog
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from filelock import AsyncFileLock, Timeout
from sqlalchemy import URL, Connection, MetaData, create_engine, event, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from kernel.database.errors import FAILURES, MigrationError, code_of, reason_of
from kernel.database.pool import ModuleRole, Placement
from kernel.database.revisions import check_history
from kernel.database.server_session import NoSession, connect_directly, place_of, quoted
from kernel.settings import DatabaseConfig

_log = structlog.get_logger("kernel.migrations")
_ENVIRONMENT = Path(__file__).parent / "alembic_environment"
_POLL_SECONDS = 0.2
_CANNOT_WAIT_LONGER = "another process has been migrating {module} for more than {seconds:g} s"
_VERSIONS = "alembic_version"
# The lock is a transaction's, which stays open and idle as long as the migrations take. A session's would stay on the
# server connection of a pooler after we are gone. It has no snapshot, so it holds back neither VACUUM nor CREATE INDEX
# CONCURRENTLY; those who wait for the lock have no transaction.
_NO_TIMEOUTS = """
    SELECT set_config(name, '0', true) FROM pg_settings
    WHERE name IN ('idle_in_transaction_session_timeout', 'statement_timeout', 'transaction_timeout')
"""
# The schemas that have migrated tables, and which.
_MIGRATED = f"""
    SELECT nspname, array_agg(relname::text) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind IN ('r', 'p') GROUP BY nspname HAVING bool_or(relname = '{_VERSIONS}')
"""  # noqa: S608  # our own name


class Comparison(Protocol):
    """How models are compared with tables, and how the difference is written."""

    def options(self) -> Mapping[str, Any]:
        """Return the options for Alembic's migration context."""

    def not_compared(self, metadata: MetaData, *, on_postgresql: bool) -> list[str]:
        """Return what the comparison cannot see in this database, in words."""


class PlainComparison:
    """Alembic's own."""

    def options(self) -> Mapping[str, Any]:
        return {}

    def not_compared(self, metadata: MetaData, *, on_postgresql: bool) -> list[str]:
        return ["check constraints and the labels of enums (extension autogenerate)"]


@dataclass(frozen=True)
class History:
    """A module's migrations: its tables, where they live, and the folder of its revisions."""

    module: str
    metadata: MetaData
    placement: Placement
    folder: Path
    config: DatabaseConfig
    # Where each module has roles: its owner runs the migrations, so that they reach no other module's tables.
    role: ModuleRole | None = None
    comparison: Comparison = field(default_factory=PlainComparison)

    async def upgrade(self, revision: str = "head") -> None:
        """Apply what is missing up to `revision`. Waits for other processes that are migrating this module."""
        self._must_exist()
        async with self._alone():
            await self._refuse_a_rename()
            async with self._connected(changes=True) as connection:
                await connection(self._protect_versions)
                await connection(lambda sync: self._run(sync, command.upgrade, revision))

    async def downgrade(self, revision: str) -> None:
        """Undo what came after `revision`; `base` undoes everything."""
        self._must_exist()
        async with self._alone(), self._connected(changes=True) as connection:
            await connection(lambda sync: self._run(sync, command.downgrade, revision))

    async def stamp(self, revision: str) -> None:
        """Note that the tables are as after `revision`, and run nothing: for tables that were made by other means."""
        self._must_exist()
        async with self._alone(), self._connected(changes=True) as connection:
            await connection(self._protect_versions)
            await connection(lambda sync: self._run(sync, command.stamp, revision))

    async def pending(self) -> list[str]:
        """The revisions that the database lacks, oldest first. One that is ahead of this code lacks none."""
        self._must_exist()
        async with self._connected() as connection:
            applied = await connection(lambda sync: MigrationContext.configure(sync).get_current_heads())
        script = ScriptDirectory.from_config(self._alembic())
        known = {one.revision for one in script.walk_revisions()}
        if not set(applied) <= known:
            _log.warning("the database is ahead of this code", module=self.module, at=applied)
            return []
        done = {one.revision for head in applied for one in script.iterate_revisions(head, "base")}
        return [one.revision for one in script.walk_revisions() if one.revision not in done][::-1]

    async def drift(self) -> list[str]:
        """How the tables differ from the models, in Alembic's words; empty when they agree."""
        async with self._connected() as connection:
            return [str(change) for change in await connection(self._compare)]

    def not_compared(self) -> list[str]:
        """Return the parts that `drift` cannot compare in this database, in words."""
        return self.comparison.not_compared(self.metadata, on_postgresql=self.placement.schema is not None)

    async def write(self, message: str) -> Path:
        """Write the revision that turns the tables into the models. Raises MigrationError if nothing differs."""
        if missing := await self.pending() if self._exists() else []:
            raise MigrationError(f"{self.module} lacks migration {missing[0]}: run `kernel migrate` first")
        self.folder.mkdir(parents=True, exist_ok=True)
        numbers = [one.number for one in check_history(self.folder).values() if one is not None]
        number = max((int(one) for one in numbers if one.isdecimal()), default=0) + 1
        async with self._alone(), self._connected(changes=True) as connection:
            if not await connection(self._compare):
                but = "".join(f". Not compared: {one}" for one in self.not_compared())
                raise MigrationError(
                    f"the tables of {self.module} are as its models say: there is nothing to migrate{but}"
                )
            written = await connection(
                lambda sync: self._run(sync, command.revision, message, autogenerate=True, rev_id=f"{number:04d}")
            )
        return Path(written.path)

    def _exists(self) -> bool:
        return self.folder.is_dir() and any(self.folder.glob("*.py"))

    def _must_exist(self) -> None:
        if not self._exists():
            raise MigrationError(
                f"modules/{self.module} has tables but no migrations/{self.module}: "
                f'run `kernel migration {self.module} -m "first tables"`'
            )
        if self.placement.is_in_memory:
            raise MigrationError(f"{self.module} is in an in-memory database, which cannot be migrated: name a file")
        check_history(self.folder)

    def _alembic(self) -> Config:
        config = Config(stdout=io.StringIO())
        config.set_main_option("script_location", _escaped(_ENVIRONMENT))
        config.set_main_option("version_locations", _escaped(self.folder))
        config.set_main_option("path_separator", "newline")
        config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
        config.attributes["options"] = self._options()
        return config

    def _options(self) -> dict[str, Any]:
        """How Alembic compares the models with the tables, and writes what differs."""
        return {
            "target_metadata": self.metadata,
            "include_object": self._is_compared,
            "compare_type": True,
            "compare_server_default": True,
            **self.comparison.options(),
            # SQLite cannot alter a column; batch operations rebuild the table there and are plain ALTERs elsewhere.
            "render_as_batch": True,
        }

    def _protect_versions(self, connection: Connection) -> None:
        """Let the role that serves read which migrations are applied, and not change it."""
        if self.role is not None:
            self._run(connection, command.ensure_version)
            connection.exec_driver_sql(self.role.protection())
            connection.commit()

    def _run(self, connection: Connection, alembic_command: Callable[..., Any], *args: Any, **options: Any) -> Any:
        config = self._alembic()
        config.attributes["connection"] = connection
        try:
            with _without_needless_warnings():
                return alembic_command(config, *args, **options)
        except CommandError as error:
            newer = ". Newer code has migrated this database: deploy that" if "Can't locate" in str(error) else ""
            raise MigrationError(f"migrations of {self.module}: {error}{newer}") from error
        except FAILURES as error:
            raise MigrationError(f"{self._line_of(error)}: {reason_of(error)}{_advice(error, self.module)}") from error

    def _line_of(self, error: BaseException) -> str:
        """The line of a revision that failed."""
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if (path := Path(frame.filename)).parent == self.folder:
                return f"migrations/{self.module}/{path.name}:{frame.lineno}"
        return f"the migrations of {self.module}"

    def _compare(self, connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts=self._options())
        with _without_needless_warnings():
            return list(compare_metadata(context, self.metadata))

    def _is_compared(self, _item: Any, name: str | None, kind: str, _reflected: bool, _other: Any) -> bool:
        """Leave out indexes that Alembic cannot compare: `Index(..., info={"by_hand": True})`, written by hand."""
        indexes = (index for table in self.metadata.tables.values() for index in table.indexes)
        return kind != "index" or name not in {index.name for index in indexes if index.info.get("by_hand")}

    @asynccontextmanager
    async def _connected(self, *, changes: bool = False) -> AsyncIterator[Callable[[Callable[[Connection], Any]], Any]]:
        """A connection on which unqualified names mean this module's; what runs on it may block.

        For `changes` the caller holds the lock.
        """
        owner = None if self.role is None else self.role.owner
        engine = self._engine(owner if changes else await self._role_for_reading())
        try:
            async with self._reached(engine) as connection:
                if self.placement.schema is not None:
                    await self._be_in_schema(connection, self.placement.schema, changes=changes)
                yield connection.run_sync
                await connection.commit()
        except FAILURES as error:
            raise MigrationError(f"the database of {self.module}: {reason_of(error)}") from error
        finally:
            await engine.dispose()

    async def _role_for_reading(self) -> str | None:
        """The one of the module's roles that the login may take. Raises MigrationError if this is no session."""
        if self.placement.schema is None:
            return None
        async with self._session() as session:
            if self.role is None:
                return None
            return await self.role.allowed(session)

    async def _be_in_schema(self, connection: AsyncConnection, schema: str, *, changes: bool) -> None:
        """Make the schema if the changes need it. Raises MigrationError unless statements run in it."""
        try:
            exists = await connection.scalar(
                text("SELECT to_regnamespace(:name) IS NOT NULL"), {"name": quoted(schema)}
            )
            if not exists and not changes:
                return  # nothing is applied yet
            if not exists and self.role is None:
                await connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}"))
                await connection.commit()
            found, user = (await connection.execute(text("SELECT current_schema(), current_user::text"))).one()
        except FAILURES as error:
            raise MigrationError(
                f"the schema {schema} cannot be made: {reason_of(error)}. Run `CREATE SCHEMA {quoted(schema)} "
                "AUTHORIZATION user` as a user who may, or grant CREATE on the database to the user who migrates"
            ) from error
        await connection.rollback()
        if found != schema:
            raise MigrationError(
                f"the migrations of {self.module} would run in {f'the schema {found}' if found else 'no schema'} "
                f"instead of {schema}: {user} needs USAGE and CREATE on it"
                + ("" if self.role is None else f" ({self.role.advice})")
            )

    def _engine(self, role: str | None) -> AsyncEngine:
        options: dict[str, Any]
        if self.placement.schema is None:
            Path(str(self.placement.url.database)).parent.mkdir(parents=True, exist_ok=True)
            options = {"isolation_level": None, "timeout": self.config.migration_wait_seconds}
            engine = create_async_engine(self.placement.url, poolclass=NullPool, connect_args=options)
            event.listen(engine.sync_engine, "begin", _begin_immediate)
            return engine
        session = {
            # In milliseconds. A statement that waits for a lock keeps everyone behind it waiting, too.
            "lock_timeout": str(int(self.config.migration_lock_timeout_seconds * 1000)),
            "statement_timeout": str(int(self.config.migration_statement_timeout_seconds * 1000)),
            # Also for raw SQL in a migration, and so that reflection looks at this schema only.
            "search_path": quoted(self.placement.schema),
        } | ({} if role is None else {"role": role})
        options = {"timeout": self.config.connect_timeout_seconds}
        engine = create_async_engine(self.placement.direct_url, poolclass=NullPool, connect_args=options)
        values = ", ".join(f"set_config('{name}', $${value}$$, false)" for name, value in session.items())

        def prepare(connection: Any, _record: Any) -> None:
            """Set what a pooler in session mode would not pass on, had it come with the connection's start."""
            cursor = connection.cursor()
            cursor.execute(f"SELECT {values}")
            cursor.close()
            connection.commit()

        # Before SQLAlchemy asks for the schema that unqualified names mean.
        event.listen(engine.sync_engine, "connect", prepare, insert=True)
        return engine

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Hold this module's migration lock, on a connection of its own so that no migration can end it."""
        if self.placement.schema is None:
            lock = AsyncFileLock(f"{self.placement.url.database}.migrating", timeout=self.config.migration_wait_seconds)
            Path(str(self.placement.url.database)).parent.mkdir(parents=True, exist_ok=True)
            try:
                async with lock:
                    yield
            except Timeout:
                raise MigrationError(self._waited()) from None
            return
        async with self._session() as session:
            give_up_at = time.monotonic() + self.config.migration_wait_seconds
            while not await self._locked(session):
                if time.monotonic() > give_up_at:
                    raise MigrationError(self._waited())
                await asyncio.sleep(_POLL_SECONDS)
            try:
                yield
            finally:
                with suppress(*FAILURES):  # the end of the connection ends the lock as well
                    await session.execute("ROLLBACK")

    async def _locked(self, session: asyncpg.Connection) -> bool:
        """Begin the transaction that holds the lock. Without the lock no transaction stays open."""
        await session.execute("BEGIN")
        is_mine = await session.fetchval("SELECT pg_try_advisory_xact_lock($1)", self._lock_key())
        # The first of these also closes what the question left open, whose snapshot would hold back others.
        await session.execute(_NO_TIMEOUTS if is_mine else "ROLLBACK")
        return bool(is_mine)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection that is a session of its own: what migrations need, and a pooler may not give."""
        try:
            connection = await connect_directly(self.placement.direct_url, self.config, "DATABASE_DIRECT_URL")
        except NoSession as error:
            raise MigrationError(f"the migrations of {self.module} cannot run: {error}") from error
        try:
            yield connection
        except FAILURES as error:
            raise MigrationError(f"the migrations of {self.module} cannot run: {reason_of(error)}") from error
        finally:
            connection.terminate()

    async def _refuse_a_rename(self) -> None:
        """Raise MigrationError where this module has no tables yet and those of one that is gone look like its own."""
        known = {folder.name for folder in self.folder.parent.iterdir() if folder.is_dir()} - {self.module}
        if self.placement.schema is None:
            here = Path(str(self.placement.url.database))
            found = {file.stem: _tables_of(file) for file in here.parent.glob("*.db")}
            advice = "rename the file {0}.db to {1}.db, with the server stopped"
        else:
            async with self._session() as session:
                found = {name: set(tables) for name, tables in await session.fetch(_MIGRATED)}
            advice = 'run DROP SCHEMA IF EXISTS "{1}"; ALTER SCHEMA "{0}" RENAME TO "{1}";'
            advice += "" if self.role is None else f" and {self.role.advice}"
        ours = {*self.metadata.tables, _VERSIONS}
        if _VERSIONS in found.pop(self.placement.schema or here.stem, ()):
            return
        for name, tables in found.items():
            if name not in known and len(tables) > 1 and _VERSIONS in tables and (tables <= ours or ours <= tables):
                raise MigrationError(
                    f"{self.module} has no tables yet, and {name}, which is no module here, has tables of the same "
                    f"names. If {self.module} was called {name}, {advice.format(name, self.module)}; if not, run "
                    f"`kernel migrate {self.module} --stamp base`, and migrate then"
                )

    @asynccontextmanager
    async def _reached(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        try:
            connection = await engine.connect()
        except FAILURES as error:
            hint = "" if self.role is None else f" ({self.role.advice})"
            raise MigrationError(
                f"the database of {self.module}, {place_of(engine.url)}, cannot be reached: {reason_of(error)}{hint}"
            ) from error
        try:
            yield connection
        finally:
            await connection.close()

    def _waited(self) -> str:
        return _CANNOT_WAIT_LONGER.format(module=self.module, seconds=self.config.migration_wait_seconds)

    def _lock_key(self) -> int:
        digest = hashlib.blake2b(f"kernel.migrations.{self.module}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, signed=True)


def _advice(error: BaseException, module: str) -> str:
    # Duplicate_table; SQLite has no code for it.
    if code_of(getattr(error, "orig", None)) != "42P07" and "already exists" not in reason_of(error):
        return ""
    return f". If this module's tables were there before its migrations, run `kernel migrate {module} --stamp REVISION`"


def _tables_of(file: Path) -> set[str]:
    """The tables of a SQLite file; none if it is not one."""
    reader = URL.create("sqlite", database=file.resolve().as_uri(), query={"mode": "ro", "uri": "true"})
    engine = create_engine(reader, poolclass=NullPool)
    try:
        return set(inspect(engine).get_table_names())
    except DBAPIError:
        return set()


@contextmanager
def _without_needless_warnings() -> Iterator[None]:
    """Alembic warns of each index that is meant for PostgreSQL alone, and of computed columns, which we compare."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Computed default on .* cannot be modified")
        warnings.filterwarnings("ignore", "autogenerate skipping metadata-specified expression-based index")
        yield


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")
