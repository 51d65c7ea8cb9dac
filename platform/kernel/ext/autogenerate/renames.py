"""Detect a renamed module: the database has no tables for it, but tables under its old name."""

from pathlib import Path

from sqlalchemy import URL, create_engine, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from kernel.database.errors import MigrationError
from kernel.database.migrations import History

_VERSIONS = "alembic_version"
# The schemas that have migrated tables, with the names of these.
_MIGRATED = f"""
    SELECT nspname, array_agg(relname::text) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind IN ('r', 'p') GROUP BY nspname HAVING bool_or(relname = '{_VERSIONS}')
"""  # noqa: S608  # our own name


async def refuse_a_rename(history: History) -> None:
    """Raise MigrationError if the module has no tables yet, and tables of a missing module equal its own."""
    folders = history.folder.parent.iterdir()
    known = {folder.name for folder in folders if folder.is_dir()} - {history.module}
    if history.placement.schema is None:
        here = Path(str(history.placement.url.database))
        own = here.stem
        found = {file.stem: _tables_of(file) for file in here.parent.glob("*.db")}
        advice = "rename the file {0}.db to {1}.db, with the server stopped"
    else:
        own = history.placement.schema
        async with history.session() as session:
            found = {name: set(tables) for name, tables in await session.fetch(_MIGRATED)}
        advice = 'run DROP SCHEMA IF EXISTS "{1}"; ALTER SCHEMA "{0}" RENAME TO "{1}";'
        advice += "" if history.role is None else f" and {history.role.advice}"
    ours = {*history.metadata.tables, _VERSIONS}
    if _VERSIONS in found.pop(own, ()):
        return
    for name, tables in found.items():
        if name not in known and len(tables) > 1 and _VERSIONS in tables and (tables <= ours or ours <= tables):
            raise MigrationError(
                f"{history.module} has no tables yet, and {name}, which is no module here, has tables of the same "
                f"names. If {history.module} was called {name}, {advice.format(name, history.module)}; if not, run "
                f"`kernel migrate {history.module} --stamp base`, and migrate then"
            )


def _tables_of(file: Path) -> set[str]:
    """Return the tables of a SQLite file; none if the file is not a database."""
    reader = URL.create("sqlite", database=file.resolve().as_uri(), query={"mode": "ro", "uri": "true"})
    engine = create_engine(reader, poolclass=NullPool)
    try:
        return set(inspect(engine).get_table_names())
    except DBAPIError:
        return set()
