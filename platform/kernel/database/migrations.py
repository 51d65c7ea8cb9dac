"""One Alembic history per module, safe to apply from many processes at once."""

import asyncio
import hashlib
import io
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from filelock import AsyncFileLock, Timeout
from sqlalchemy import Connection, MetaData, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from kernel.database.errors import FAILURES, MigrationError
from kernel.database.pool import Placement
from kernel.settings import DatabaseConfig

_log = structlog.get_logger("kernel.migrations")
_ENVIRONMENT = Path(__file__).parent / "alembic_environment"
_POLL_SECONDS = 0.2
_CANNOT_WAIT_LONGER = "another process has been migrating {module} for more than {seconds:g} s"


@dataclass(frozen=True)
class History:
    """A module's migrations: its tables, where they live, and the folder of its revisions."""

    module: str
    metadata: MetaData
    placement: Placement
    folder: Path
    config: DatabaseConfig

    async def upgrade(self, revision: str = "head") -> None:
        """Apply what is missing up to `revision`. Waits for other processes that are migrating this module."""
        self._must_exist()
        async with self._alone(), self._connected() as connection:
            await connection(lambda sync: self._run(sync, command.upgrade, revision))

    async def downgrade(self, revision: str) -> None:
        """Undo what came after `revision`; `base` undoes everything."""
        self._must_exist()
        async with self._alone(), self._connected() as connection:
            await connection(lambda sync: self._run(sync, command.downgrade, revision))

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

    async def write(self, message: str) -> Path:
        """Write the revision that turns the tables into the models. Raises MigrationError if nothing differs."""
        if missing := await self.pending() if self._exists() else []:
            raise MigrationError(f"{self.module} lacks migration {missing[0]}: run `kernel migrate` first")
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(list(self.folder.glob("[0-9]*.py"))) + 1
        async with self._alone(), self._connected() as connection:
            if not await connection(self._compare):
                raise MigrationError(f"the tables of {self.module} are as its models say: there is nothing to migrate")
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

    def _alembic(self) -> Config:
        config = Config(stdout=io.StringIO())
        config.set_main_option("script_location", _escaped(_ENVIRONMENT))
        config.set_main_option("version_locations", _escaped(self.folder))
        config.set_main_option("path_separator", "newline")
        config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
        config.attributes |= {"metadata": self.metadata, "include_object": self._is_compared}
        return config

    def _run(self, connection: Connection, alembic_command: Callable[..., Any], *args: Any, **options: Any) -> Any:
        config = self._alembic()
        config.attributes["connection"] = connection
        try:
            with _without_index_warnings():
                return alembic_command(config, *args, **options)
        except CommandError as error:
            raise MigrationError(f"migrations of {self.module}: {error}") from error

    def _compare(self, connection: Connection) -> list[Any]:
        options = {"compare_type": True, "target_metadata": self.metadata, "include_object": self._is_compared}
        with _without_index_warnings():
            return list(compare_metadata(MigrationContext.configure(connection, opts=options), self.metadata))

    def _is_compared(self, _item: Any, name: str | None, kind: str, _reflected: bool, _other: Any) -> bool:
        """Leave out indexes that Alembic cannot compare: `Index(..., info={"by_hand": True})`, written by hand."""
        indexes = (index for table in self.metadata.tables.values() for index in table.indexes)
        return kind != "index" or name not in {index.name for index in indexes if index.info.get("by_hand")}

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Callable[[Callable[[Connection], Any]], Any]]:
        """A connection on which unqualified names mean this module's; what runs on it may block."""
        engine = self._engine()
        try:
            async with self._reached(engine) as connection:
                yield connection.run_sync
                await connection.commit()
        finally:
            await engine.dispose()

    def _engine(self) -> AsyncEngine:
        options: dict[str, Any]
        if self.placement.schema is None:
            Path(str(self.placement.url.database)).parent.mkdir(parents=True, exist_ok=True)
            options = {"isolation_level": None, "timeout": self.config.migration_wait_seconds}
            engine = create_async_engine(self.placement.url, poolclass=NullPool, connect_args=options)
            event.listen(engine.sync_engine, "begin", _begin_immediate)
            return engine
        limits = {
            # In milliseconds. A statement that waits for a lock keeps everyone behind it waiting, too.
            "lock_timeout": str(int(self.config.migration_lock_timeout_seconds * 1000)),
            "statement_timeout": str(int(self.config.migration_statement_timeout_seconds * 1000)),
            # Also for raw SQL in a migration, and so that reflection looks at this schema only.
            "search_path": f'"{self.placement.schema}"',
        }
        options = {"timeout": self.config.connect_timeout_seconds, "server_settings": limits}
        return create_async_engine(self.placement.url, poolclass=NullPool, connect_args=options)

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
        engine = create_async_engine(self.placement.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        try:
            async with self._reached(engine) as connection:
                give_up_at = time.monotonic() + self.config.migration_wait_seconds
                while not await connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": self._lock_key()}):
                    if time.monotonic() > give_up_at:
                        raise MigrationError(self._waited())
                    await asyncio.sleep(_POLL_SECONDS)
                await connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{self.placement.schema}"'))
                yield
        finally:
            await engine.dispose()

    @asynccontextmanager
    async def _reached(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        try:
            connection = await engine.connect()
        except FAILURES as error:
            raise MigrationError(f"the database of {self.module} cannot be reached ({type(error).__name__})") from error
        try:
            yield connection
        finally:
            await connection.close()

    def _waited(self) -> str:
        return _CANNOT_WAIT_LONGER.format(module=self.module, seconds=self.config.migration_wait_seconds)

    def _lock_key(self) -> int:
        digest = hashlib.blake2b(f"kernel.migrations.{self.module}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, signed=True)


@contextmanager
def _without_index_warnings() -> Iterator[None]:
    """On SQLite, Alembic warns of each index that is meant for PostgreSQL alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "autogenerate skipping metadata-specified expression-based index")
        yield


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")
