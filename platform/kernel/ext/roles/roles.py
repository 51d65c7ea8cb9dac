"""Two PostgreSQL roles for each module: one owns its schema and migrates it, the other serves with rights on rows only.

Neither is a login. The login that serves may take the serving roles and no others, so that nothing it runs can change
a table; the login that migrates may take all. Both take them without inheriting their rights: `RESET ROLE` leaves a
session that may do nothing.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import asyncpg
import structlog
from sqlalchemy.engine import URL

from kernel.database import AsyncDBPool, Placement
from kernel.database.errors import FAILURES, reason_of
from kernel.database.pool import ModuleRole
from kernel.database.server_session import connect, is_own_session, place_of, quoted
from kernel.ext.pool.errors import RoleError
from kernel.settings import DatabaseConfig, Environment

_log = structlog.get_logger("kernel.roles")
_MAX_BYTES = 63  # PostgreSQL truncates longer names, and two names may become equal.
_OWNER = "_owner"
_SINCE_16 = "current_setting('server_version_num')::int >= 160000"
# The privilege that SET ROLE needs; before PostgreSQL 16 every member had it.
MAY_SET = f"CASE WHEN {_SINCE_16} THEN 'SET' ELSE 'MEMBER' END"
_ROWS, _NUMBERS = "SELECT, INSERT, UPDATE, DELETE", "USAGE, SELECT"
# The kinds of objects in a schema that have an owner. Objects of an extension or a column follow those.
_OBJECTS = """
    SELECT described.type, described.identity, found.owner, found.class, found.oid
    FROM (
        SELECT 'pg_class'::regclass AS class, oid, relowner AS owner, relnamespace AS schema FROM pg_class
        WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        UNION ALL SELECT 'pg_proc'::regclass, oid, proowner, pronamespace FROM pg_proc
        UNION ALL SELECT 'pg_type'::regclass, oid, typowner, typnamespace FROM pg_type
        WHERE typtype IN ('e', 'd', 'r')
            OR typtype = 'c' AND EXISTS (SELECT FROM pg_class WHERE pg_class.oid = typrelid AND relkind = 'c')
    ) AS found, LATERAL pg_identify_object(found.class, found.oid, 0) AS described
    WHERE found.schema = to_regnamespace({schema}) AND NOT EXISTS (
        SELECT FROM pg_depend WHERE classid = found.class AND objid = found.oid AND (
            deptype = 'e' OR refclassid = 'pg_class'::regclass AND refobjsubid > 0 AND deptype IN ('a', 'i')
        )
    )
"""
# Conditions that must not hold after the roles are applied. {role} and {owner} are names, {schema} is quoted.
_PROBLEMS = f"""
    WITH objects AS ({_OBJECTS})
    SELECT format('the schema belongs to %s', nspowner::regrole) FROM pg_namespace
    WHERE oid = to_regnamespace({{schema}}) AND pg_get_userbyid(nspowner) <> {{owner}}
    UNION ALL SELECT format('the %s %s belongs to %s', type, identity, owner::regrole) FROM objects
    WHERE pg_get_userbyid(owner) <> {{owner}}
    UNION ALL SELECT format('%s has no right to use the schema', {{role}})
    WHERE NOT has_schema_privilege({{role}}, to_regnamespace({{schema}})::oid, 'USAGE')
    UNION ALL SELECT format('%s may create tables in the schema', {{role}})
    WHERE has_schema_privilege({{role}}, to_regnamespace({{schema}})::oid, 'CREATE')
    UNION ALL SELECT format('%s has no right to %s %s', {{role}}, wanted, identity)
    FROM objects, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS wanted
    WHERE class = 'pg_class'::regclass AND type <> 'sequence' AND identity NOT LIKE '%.alembic_version'
        AND NOT has_table_privilege({{role}}, oid, wanted)
"""  # noqa: S608  # names are quoted


@dataclass(frozen=True)
class Role:
    """A module's roles in the database at `url`; without a `schema` it has no tables, and so no owner role."""

    name: str
    module: str
    url: URL
    schema: str | None
    # The URL that bypasses a pooler.
    direct_url: URL

    @property
    def owner(self) -> str:
        """Return the role that owns the schema and everything in it, and runs the module's migrations."""
        return f"{self.name}{_OWNER}"

    async def allowed(self, connection: asyncpg.Connection) -> str:
        """Return the role that the user of this connection may take; the serving one if it may take none."""
        names = (self.owner, self.name)
        mine = f"SELECT rolname FROM pg_roles WHERE rolname = ANY($1) AND pg_has_role(oid, {MAY_SET})"  # noqa: S608
        found = {row[0] for row in await connection.fetch(mine, names)}
        return next((name for name in names if name in found), self.name)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the module's roles."""
        return (self.name,) if self.schema is None else (self.name, self.owner)

    def statements(self, logins: Iterable[str] = ()) -> Iterator[str]:
        """Return the SQL that creates the roles and their rights, or updates existing ones.

        The current user may take both. `logins` may take the serving role.
        """
        for name in self.names:
            yield (
                f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {_literal(name)}) THEN "
                f"CREATE ROLE {quoted(name)} NOLOGIN; END IF; "
                "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
            )
            yield _granted(name, None)
        for login in logins:
            yield _granted(self.name, login)
        if self.schema is None:
            return
        schema, role, owner = quoted(self.schema), quoted(self.name), quoted(self.owner)
        # Objects from before there was an owner role pass to it; the schema last, or the user could not access the
        # others.
        yield (
            f"DO $$ DECLARE one record; old regrole := (SELECT nspowner FROM pg_namespace "  # noqa: S608  # quoted
            f"WHERE oid = to_regnamespace({_literal(schema)})); BEGIN "
            f"IF old IS NULL THEN CREATE SCHEMA {schema} AUTHORIZATION {owner}; old := {_literal(owner)}; END IF; "
            f"IF old <> {_literal(owner)}::regrole THEN GRANT USAGE, CREATE ON SCHEMA {schema} TO {owner}; END IF; "
            f"FOR one IN {_OBJECTS.format(schema=_literal(schema))} AND found.owner <> {_literal(owner)}::regrole LOOP "
            f"EXECUTE format('ALTER %s %s OWNER TO %I', one.type, one.identity, {_literal(self.owner)}); END LOOP; "
            f"IF old <> {_literal(owner)}::regrole THEN ALTER SCHEMA {schema} OWNER TO {owner}; END IF; END $$"
        )
        yield f"SET ROLE {owner}"
        yield f"REVOKE ALL ON SCHEMA {schema} FROM PUBLIC"
        yield f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM PUBLIC"
        yield f"GRANT USAGE ON SCHEMA {schema} TO {role}"
        for rights, kind in ((_ROWS, "TABLES"), (_NUMBERS, "SEQUENCES")):
            yield f"GRANT {rights} ON ALL {kind} IN SCHEMA {schema} TO {role}"
            yield f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT {rights} ON {kind} TO {role}"
        yield self.protection()
        yield "RESET ROLE"

    def protection(self) -> str:
        """Return the SQL that prevents the serving role from changing the list of applied migrations."""
        table = f"{quoted(self.schema or '')}.alembic_version"
        return (
            f"DO $$ BEGIN IF to_regclass({_literal(table)}) IS NOT NULL THEN "
            f"REVOKE INSERT, UPDATE, DELETE ON {table} FROM {quoted(self.name)}; END IF; END $$"
        )


class PostgresqlRoles:
    """The roles of the modules of one application."""

    def __init__(self, pool: AsyncDBPool, prefix: str | None = None) -> None:
        """`prefix` is DATABASE_ROLE_PREFIX."""
        self._pool, self._prefix = pool, prefix

    def role(self, module: str) -> Role | None:
        """Return a module's roles; None on SQLite. Raises RoleError."""
        placement: Placement = self._pool.placement(module)
        if placement.schema is None:
            return None
        schema = placement.schema if module in self._pool.with_tables else None
        name = role_name(module, placement.url, self._prefix)
        return Role(name, module, placement.url, schema, placement.direct_url)

    def of_module(self, module: str) -> ModuleRole | None:
        """Return a module's roles as kernel.database asks for them; None on SQLite. Raises RoleError."""
        if (role := self.role(module)) is None:
            return None
        return ModuleRole(role.name, role.owner, "run `kernel roles --apply`", role.protection(), role.allowed)

    def all(self) -> list[Role]:
        """Return the roles of every module that is not on SQLite. Raises RoleError."""
        return [role for module in self._pool.modules if (role := self.role(module)) is not None]

    async def prepare(self, logins: Iterable[str] = ()) -> None:
        """Create the roles and their rights. Raises RoleError."""
        await self._refuse_undeclared_poolers()
        await apply_roles(self.all(), self._pool.config, logins)

    async def verify(self) -> None:
        """Raise RoleError if the login that serves cannot take all roles, or in UAT and PROD may change tables."""
        await self._refuse_undeclared_poolers()
        await verify_roles(self.all(), self._pool.config)

    async def _refuse_undeclared_poolers(self) -> None:
        config = self._pool.config
        if config.pooler == "none":
            placements = [self._pool.placement(module) for module in self._pool.modules]
            for url in {url for one in placements if one.schema for url in (one.url, one.read_url)}:
                await refuse_undeclared_pooler(url, config)


async def refuse_undeclared_pooler(url: URL, config: DatabaseConfig) -> None:
    """Raise RoleError for a pooler in transaction mode that the settings do not name.

    The role of one module would stay on a server connection that another module gets next.
    """
    connection = await _connected(url, config)
    try:
        is_own = await is_own_session(connection, url, config)
    except FAILURES as error:
        raise RoleError(f"the database {place_of(url)} cannot be reached: {reason_of(error)}") from error
    finally:
        connection.terminate()
    if not is_own:
        raise RoleError(
            f"{place_of(url)} is a connection pooler in transaction mode, in which one module would get connections "
            "with the role of another: set DATABASE_POOLER=transaction"
        )


def role_name(module: str, url: URL, prefix: str | None) -> str:
    """Return the name of a module's role.

    Roles belong to the whole server, so the name begins with the database's name or the setting. Raises RoleError if
    PostgreSQL could not store it.
    """
    name = f"{url.database}.{module}" if prefix is None else f"{prefix}{module}"
    if len(f"{name}{_OWNER}".encode()) > _MAX_BYTES:
        raise RoleError(
            f"the role {name}{_OWNER} would have more than {_MAX_BYTES} bytes: set a shorter DATABASE_ROLE_PREFIX"
        )
    return name


async def apply_roles(roles: Iterable[Role], config: DatabaseConfig, logins: Iterable[str] = ()) -> None:
    """Create the roles and their rights, in one transaction for each database. Raises RoleError."""
    logins = tuple(logins)
    for url, of_url in _by_url(roles, lambda role: role.direct_url).items():
        connection = await _connected(url, config)
        module = of_url[0].module
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = {int(config.migration_wait_seconds * 1000)}")
                lock = "SELECT pg_advisory_xact_lock(hashtextextended('kernel.roles', 0))"
                await connection.execute(lock, timeout=config.migration_wait_seconds)
                for role in of_url:
                    module = role.module
                    for statement in role.statements(logins):
                        await connection.execute(statement, timeout=config.migration_wait_seconds)
                for role in of_url:
                    module = role.module
                    if problems := await _problems(connection, role, logins):
                        raise RoleError(
                            f"the roles of {module} were not applied, as this would remain: " + "; ".join(problems)
                        )
        except FAILURES as error:
            raise RoleError(
                f"the roles of {module} cannot be applied: {reason_of(error)}. The user of the database's URL needs "
                "CREATEROLE, the right to create schemas in the database, and to own what is there already (or a "
                "superuser runs what `kernel roles` prints)"
            ) from error
        finally:
            connection.terminate()


async def _problems(connection: asyncpg.Connection, role: Role, logins: Iterable[str]) -> list[str]:
    """Return what is wrong after the SQL ran: GRANT only warns if it changes nothing."""
    found: list[str] = []
    for login in logins:
        who, serving, owner = _literal(login), _literal(role.name), _literal(role.owner)
        rights = await connection.fetchrow(
            f"SELECT rolsuper, pg_has_role(oid, {serving}, {MAY_SET}) AS serves, "  # noqa: S608  # quoted
            f"pg_has_role(oid, {serving}, 'USAGE') AS inherits, "
            f"EXISTS (SELECT FROM pg_roles AS owner WHERE rolname = {owner} AND pg_has_role(login.oid, oid, 'MEMBER')) "
            f"AS owns FROM pg_roles AS login WHERE rolname = {who}"
        )
        if rights["rolsuper"]:
            found.append(f"{login} is a superuser, whom no role restricts: serve with an ordinary login")
            continue
        if not rights["serves"]:
            found.append(f"{login} may not take the role {role.name}")
        if rights["inherits"]:
            found.append(f"{login} has the rights of {role.name} without taking it: ALTER ROLE {login} NOINHERIT")
        if rights["owns"]:
            found.append(f"{login} may take the role {role.owner}, and so change tables: REVOKE it")
    if role.schema is None:
        return found
    names = {"role": role.name, "owner": role.owner, "schema": quoted(role.schema)}
    rows = await connection.fetch(_PROBLEMS.format(**{name: _literal(value) for name, value in names.items()}))
    return [*found, *(str(row[0]) for row in rows)]


async def verify_roles(roles: Iterable[Role], config: DatabaseConfig) -> None:
    """Raise RoleError if the login that serves cannot take all roles, and in UAT and PROD if it may change tables."""
    missing: list[str] = []
    for url, of_url in _by_url(roles, lambda role: role.url).items():
        connection = await _connected(url, config)
        names = ", ".join(f"({_literal(role.name)}, {_literal(role.owner)})" for role in of_url)
        try:
            async with connection.transaction(readonly=True):
                # A name that does not exist must not reach pg_has_role, which would raise.
                rows = await connection.fetch(
                    f"SELECT name, coalesce(pg_has_role(serving.oid, {MAY_SET}), false), "  # noqa: S608  # quoted
                    f"coalesce(pg_has_role(owning.oid, {MAY_SET}), false), current_user::text "
                    f"FROM (VALUES {names}) AS wanted (name, owner) "
                    "LEFT JOIN pg_roles AS serving ON serving.rolname = name "
                    "LEFT JOIN pg_roles AS owning ON owning.rolname = owner"
                )
        except FAILURES as error:
            raise RoleError(f"the roles cannot be verified: {reason_of(error)}") from error
        finally:
            connection.terminate()
        missing += [name for name, serves, _, _ in rows if not serves]
        owned = [name for name, _, owns, _ in rows if owns]
        if owned:
            _refuse_owner(rows[0][3], owned, config)
    if missing:
        raise RoleError(
            f"the role(s) {', '.join(missing)} cannot be taken by this login: run `kernel roles --apply`, as the user "
            "who migrates and with `--login NAME` for the one that serves"
        )


def _refuse_owner(login: str, roles: list[str], config: DatabaseConfig) -> None:
    reason = (
        f"{login} serves, and may take the role that owns the tables of {', '.join(roles)}: its `RESET ROLE` brings "
        "back DROP TABLE. Serve with a login of its own (`kernel roles --apply --login NAME`)"
    )
    if config.environment in {Environment.UAT, Environment.PROD}:
        raise RoleError(reason)
    _log.warning("the login that serves may change tables", reason=reason)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _granted(role: str, login: str | None) -> str:
    """Return the SQL that lets a login (None: the current user) take a role without inheriting its rights."""
    who, grantee = ("current_user", "CURRENT_USER") if login is None else (_literal(login), quoted(login))
    grant = _literal(f"GRANT {quoted(role)} TO {grantee}")
    name = _literal(role)
    return (
        f"DO $$ BEGIN IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = {who}) "  # noqa: S608  # quoted
        f"AND (NOT pg_has_role({who}, {name}, {MAY_SET}) OR {_SINCE_16} AND pg_has_role({who}, {name}, 'USAGE')) THEN "
        f"EXECUTE {grant} || CASE WHEN {_SINCE_16} THEN ' WITH INHERIT FALSE, SET TRUE' ELSE '' END; END IF; END $$"
    )


def _by_url(roles: Iterable[Role], url_of: Callable[[Role], URL]) -> Mapping[URL, list[Role]]:
    """Group the roles by database. Raises RoleError if two modules would have the same role."""
    by_url: dict[URL, list[Role]] = defaultdict(list)
    of_name: dict[str, str] = {}
    for role in roles:
        by_url[url_of(role)].append(role)
        for name in role.names:
            if (other := of_name.setdefault(name, role.module)) != role.module:
                raise RoleError(f"{other} and {role.module} would both have the role {name}: rename one of them")
    return by_url


async def _connected(url: URL, config: DatabaseConfig) -> asyncpg.Connection:
    try:
        return await connect(url, config)
    except FAILURES as error:
        raise RoleError(f"the database {place_of(url)} cannot be reached: {reason_of(error)}") from error
