"""A PostgreSQL role for each module, with rights in its own schema only."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from kernel.database.errors import FAILURES, RoleError, code_of
from kernel.settings import DatabaseConfig

_MAX_BYTES = 63  # PostgreSQL cuts longer names off, and two may become one
_NO_SCHEMA = "3F000"
# What SET ROLE needs; before PostgreSQL 16 every member might.
_MAY_SET = "CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END"


@dataclass(frozen=True)
class Role:
    """A module's role in the database at `url`; without a `schema` it has no rights at all."""

    name: str
    module: str
    url: URL
    schema: str | None

    def statements(self, logins: Iterable[str] = ()) -> Iterator[str]:
        """What makes the role and its rights, also if they are there. `logins` may take it beside the current user."""
        role, text = quoted(self.name), _literal(self.name)
        yield (
            f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {text}) THEN CREATE ROLE {role} NOLOGIN; "
            "END IF; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        )
        for login in ("CURRENT_USER", *map(quoted, logins)):
            who = "current_user" if login == "CURRENT_USER" else _literal(login[1:-1].replace('""', '"'))
            yield (
                f"DO $$ BEGIN IF NOT pg_has_role({who}, {text}, {_MAY_SET}) THEN GRANT {role} TO {login}; "
                "END IF; END $$"
            )
        if self.schema is None:
            return
        schema = quoted(self.schema)
        tables, sequences = "SELECT, INSERT, UPDATE, DELETE", "USAGE, SELECT"
        yield f"REVOKE ALL ON SCHEMA {schema} FROM PUBLIC"
        yield f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM PUBLIC"
        yield f"GRANT USAGE ON SCHEMA {schema} TO {role}"
        yield f"GRANT {tables} ON ALL TABLES IN SCHEMA {schema} TO {role}"
        yield f"GRANT {sequences} ON ALL SEQUENCES IN SCHEMA {schema} TO {role}"
        yield (
            f"DO $$ BEGIN REVOKE INSERT, UPDATE, DELETE ON {schema}.alembic_version FROM {role}; "
            "EXCEPTION WHEN undefined_table THEN NULL; END $$"
        )
        for rights, kind in ((tables, "TABLES"), (sequences, "SEQUENCES")):
            yield f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT {rights} ON {kind} TO {role}"


def role_name(module: str, url: URL, config: DatabaseConfig) -> str:
    """The name of a module's role: roles are the whole server's, so it begins with the database's name or the setting.

    Raises RoleError where PostgreSQL could not hold it.
    """
    prefix = f"{url.database}." if config.role_prefix is None else config.role_prefix
    name = f"{prefix}{module}"
    if len(name.encode()) > _MAX_BYTES:
        raise RoleError(f"the role {name} would have more than {_MAX_BYTES} bytes: set a shorter DATABASE_ROLE_PREFIX")
    return name


async def apply(roles: Iterable[Role], config: DatabaseConfig, logins: Iterable[str] = ()) -> None:
    """Make the roles and their rights, one transaction for each database. Raises RoleError."""
    for url, of_url in _by_url(roles).items():
        engine = _engine(url, config)
        module = of_url[0].module
        try:
            async with engine.begin() as connection:
                await connection.exec_driver_sql(
                    f"SET LOCAL lock_timeout = {int(config.migration_wait_seconds * 1000)}"
                )
                await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('kernel.roles', 0))")
                for role in of_url:
                    module = role.module
                    for statement in role.statements(logins):
                        await connection.exec_driver_sql(statement)
        except FAILURES as error:
            cause = getattr(error, "orig", None) or error
            if code_of(cause) == _NO_SCHEMA:
                raise RoleError(
                    f"{module} has no schema yet: run `kernel migrate`, then `kernel roles --apply`"
                ) from None
            raise RoleError(
                f"the role of {module} cannot be applied ({getattr(cause, '__cause__', None) or cause}): the user of "
                "the database's URL must own the schemas and may need CREATEROLE"
            ) from error
        finally:
            await engine.dispose()


async def verify(roles: Iterable[Role], config: DatabaseConfig) -> None:
    """Raises RoleError if the user of the database's URL cannot take them all."""
    missing: list[str] = []
    for url, of_url in _by_url(roles).items():
        engine = _engine(url, config)
        names = ", ".join(f"({_literal(role.name)})" for role in of_url)
        try:
            async with engine.connect() as connection:
                # A name that does not exist must not reach pg_has_role, which would raise.
                rows = await connection.exec_driver_sql(
                    f"SELECT name FROM (VALUES {names}) AS wanted (name) LEFT JOIN pg_roles ON rolname = name "  # noqa: S608  # quoted
                    f"WHERE CASE WHEN rolname IS NULL THEN true ELSE NOT pg_has_role(oid, {_MAY_SET}) END"
                )
                missing += rows.scalars()
        except FAILURES as error:
            raise RoleError(f"the database of the roles cannot be reached ({type(error).__name__})") from error
        finally:
            await engine.dispose()
    if missing:
        raise RoleError(f"the role(s) {', '.join(missing)} cannot be taken: run `kernel roles --apply`")


def quoted(name: str) -> str:
    """A name as an identifier."""
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _by_url(roles: Iterable[Role]) -> Mapping[URL, list[Role]]:
    by_url: dict[URL, list[Role]] = defaultdict(list)
    for role in roles:
        by_url[role.url].append(role)
    return by_url


def _engine(url: URL, config: DatabaseConfig) -> AsyncEngine:
    return create_async_engine(url, poolclass=NullPool, connect_args={"timeout": config.connect_timeout_seconds})
