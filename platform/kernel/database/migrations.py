"""One Alembic history per module, safe to apply from many processes at once."""

import asyncio
import hashlib
import io
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import asyncpg
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from filelock import AsyncFileLock, Timeout
from sqlalchemy import Connection, MetaData, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from kernel.database.errors import FAILURES, MigrationError, code_of, reason_of
from kernel.database.pool import ModuleRole, Placement
from kernel.database.revisions import read_history
from kernel.database.server_session import NoSession, connect_directly, place_of, quoted
from kernel.settings import DatabaseConfig

_log = structlog.get_logger("kernel.migrations")
_ENVIRONMENT = Path(__file__).parent / "alembic_environment"
_POLL_SECONDS = 0.2
# The lock is a transaction's, which stays open and idle as long as the migrations take. A session's would stay on the
# server connection of a pooler after we are gone. It has no snapshot, so it holds back neither VACUUM nor CREATE INDEX
# CONCURRENTLY; those who wait for the lock have no transaction.
_NO_TIMEOUTS = """
    SELECT set_config(name, '0', true) FROM pg_settings
    WHERE name IN ('idle_in_transaction_session_timeout', 'statement_timeout', 'transaction_timeout')
"""


class Comparison(NamedTuple):
    """The result of a comparison of models with tables, in words."""

    differences: Sequence[str]
    not_compared: Sequence[str]


class TableInspector(Protocol):
    """Looks at the tables of a module. An extension adds one; without it, migrations are applied and not compared."""

    async def before_upgrade(self, history: "History") -> None:
        """Raise MigrationError if the migrations must not be applied to the tables that are there."""

    async def compare(self, history: "History") -> Comparison:
        """Compare the tables with the models."""


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
    inspector: TableInspector | None = None

    async def upgrade(self, revision: str = "head") -> None:
        """Apply what is missing up to `revision`. Waits for other processes that are migrating this module."""
        await self._change(command.upgrade, revision)

    async def downgrade(self, revision: str) -> None:
        """Undo what came after `revision`; `base` undoes everything."""
        await self._change(command.downgrade, revision)

    async def stamp(self, revision: str) -> None:
        """Note that the tables are as after `revision`, and run nothing: for tables that were made by other means."""
        await self._change(command.stamp, revision)

    async def pending(self) -> list[str]:
        """The revisions that the database lacks, oldest first. One that is ahead of this code lacks none."""
        self._must_exist()
        async with self.connected() as run:
            applied = await run(lambda sync: MigrationContext.configure(sync).get_current_heads())
        script = ScriptDirectory.from_config(self._alembic({}))
        known = {one.revision for one in script.walk_revisions()}
        if not set(applied) <= known:
            _log.warning("the database is ahead of this code", module=self.module, at=applied)
            return []
        done = {one.revision for head in applied for one in script.iterate_revisions(head, "base")}
        return [one.revision for one in script.walk_revisions() if one.revision not in done][::-1]

    async def _change(self, alembic_command: Callable[..., Any], revision: str) -> None:
        self._must_exist()
        async with self.alone():
            if self.inspector is not None and alembic_command is command.upgrade:
                await self.inspector.before_upgrade(self)
            async with self.connected(changes=True) as run:
                await run(self._protect_versions)
                await run(lambda sync: self.run_alembic(sync, alembic_command, revision))

    @property
    def exists(self) -> bool:
        """Return whether the module has migrations."""
        return any(self.folder.glob("*.py"))

    def _must_exist(self) -> None:
        if not self.exists:
            raise MigrationError(
                f"modules/{self.module} has tables but no migrations/{self.module}: "
                f'run `kernel migration {self.module} -m "first tables"` (docs/migrations.md)'
            )
        if self.placement.is_in_memory:
            raise MigrationError(f"{self.module} is in an in-memory database, which cannot be migrated: name a file")
        read_history(self.folder)

    def _alembic(self, options: Mapping[str, Any]) -> Config:
        config = Config(stdout=io.StringIO())
        for name, value in {
            "script_location": _ENVIRONMENT,
            "version_locations": self.folder,
            "path_separator": "newline",
            "file_template": "%(rev)s_%(slug)s",
        }.items():
            config.set_main_option(name, str(value).replace("%", "%%"))
        config.attributes["options"] = {"target_metadata": self.metadata, **options}
        return config

    def _protect_versions(self, connection: Connection) -> None:
        """Let the role that serves read which migrations are applied, and not change it."""
        if self.role is not None:
            self.run_alembic(connection, command.ensure_version)
            connection.exec_driver_sql(self.role.protection)
            connection.commit()

    def run_alembic(
        self,
        connection: Connection,
        alembic_command: Callable[..., Any],
        *args: Any,
        options: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> Any:
        """Run a command of Alembic, with `options` for its migration context. Raises MigrationError."""
        config = self._alembic(options or {})
        config.attributes["connection"] = connection
        try:
            return alembic_command(config, *args, **named)
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

    @asynccontextmanager
    async def connected(self, *, changes: bool = False) -> AsyncIterator[Callable[[Callable[[Connection], Any]], Any]]:
        """Connect so that unqualified names mean this module's tables; yield what runs a function on the connection.

        For `changes` the caller holds the lock (`alone`). Raises MigrationError.
        """
        engine = self._engine(await self._role(changes=changes))
        try:
            connection = await engine.connect()
        except FAILURES as error:
            hint = "" if self.role is None else f" ({self.role.advice})"
            raise MigrationError(
                f"the database of {self.module}, {place_of(engine.url)}, cannot be reached: {reason_of(error)}{hint}"
            ) from error
        try:
            if self.placement.schema is not None:
                await self._be_in_schema(connection, self.placement.schema, changes=changes)
            yield connection.run_sync
            await connection.commit()
        except FAILURES as error:
            raise MigrationError(f"the database of {self.module}: {reason_of(error)}") from error
        finally:
            await connection.close()

    async def _role(self, *, changes: bool) -> str | None:
        """Return the role to work under: the owner for changes, else the one that the login may take.

        Raises MigrationError if the connection for reading is no session.
        """
        if changes or self.placement.schema is None:
            return None if self.role is None else self.role.owner
        async with self.session() as session:
            return None if self.role is None else await self.role.allowed(session)

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
        options: dict[str, Any] = {"timeout": self.config.connect_timeout_seconds}
        if self.placement.schema is None:
            self._make_folder()
            options = {"isolation_level": None, "timeout": self.config.migration_wait_seconds}
            engine = create_async_engine(self.placement.url, poolclass=NullPool, connect_args=options)
            event.listen(engine.sync_engine, "begin", lambda begun: begun.exec_driver_sql("BEGIN IMMEDIATE"))
            return engine
        session = {
            # In milliseconds. A statement that waits for a lock keeps everyone behind it waiting, too.
            "lock_timeout": str(int(self.config.migration_lock_timeout_seconds * 1000)),
            "statement_timeout": str(int(self.config.migration_statement_timeout_seconds * 1000)),
            # Also for raw SQL in a migration, and so that reflection looks at this schema only.
            "search_path": quoted(self.placement.schema),
        } | ({} if role is None else {"role": role})
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
    async def alone(self) -> AsyncIterator[None]:
        """Hold this module's migration lock, on a connection of its own so that no migration can end it."""
        patience = self.config.migration_wait_seconds
        waited = MigrationError(f"another process has been migrating {self.module} for more than {patience:g} s")
        if self.placement.schema is None:
            self._make_folder()
            try:
                async with AsyncFileLock(f"{self.placement.url.database}.migrating", timeout=patience):
                    yield
            except Timeout:
                raise waited from None
            return
        async with self.session() as session:
            give_up_at = time.monotonic() + patience
            while not await self._locked(session):
                if time.monotonic() > give_up_at:
                    raise waited
                await asyncio.sleep(_POLL_SECONDS)
            try:
                yield
            finally:
                with suppress(*FAILURES):  # the end of the connection ends the lock as well
                    await session.execute("ROLLBACK")

    async def _locked(self, session: asyncpg.Connection) -> bool:
        """Begin the transaction that holds the lock. Without the lock no transaction stays open."""
        digest = hashlib.blake2b(f"kernel.migrations.{self.module}".encode(), digest_size=8).digest()
        await session.execute("BEGIN")
        is_mine = await session.fetchval("SELECT pg_try_advisory_xact_lock($1)", int.from_bytes(digest, signed=True))
        # The first of these also closes what the question left open, whose snapshot would hold back others.
        await session.execute(_NO_TIMEOUTS if is_mine else "ROLLBACK")
        return bool(is_mine)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection]:
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

    def _make_folder(self) -> None:
        """Make the folder of the SQLite file."""
        Path(str(self.placement.url.database)).parent.mkdir(parents=True, exist_ok=True)


def _advice(error: BaseException, module: str) -> str:
    # Duplicate_table; SQLite has no code for it.
    if code_of(getattr(error, "orig", None)) != "42P07" and "already exists" not in reason_of(error):
        return ""
    return f". If this module's tables were there before its migrations, run `kernel migrate {module} --stamp REVISION`"
