"""Find out whether tables are at their newest migration, at every start and without loading Alembic.

With hundreds of modules, to let Alembic import every migration ever written takes the start seconds.
"""

from pathlib import Path

from sqlalchemy import Column, MetaData, String, Table, select
from sqlalchemy.exc import DBAPIError

from kernel.database.errors import MigrationError
from kernel.database.pool import Database
from kernel.database.revision_files import Revision, conflicts, heads, read_revisions

_APPLIED = Table("alembic_version", MetaData(), Column("version_num", String(32)))


async def is_at_head(database: Database, migrations: Path) -> bool:
    """Return whether the newest revision in `migrations` is applied. In doubt return False: then Alembic decides.

    Raises DatabaseUnavailable; MigrationError if there is no newest revision.
    """
    revisions = check_history(migrations)
    if not (newest := heads(revisions)):
        return False
    try:
        async with database.read() as session:
            return set((await session.scalars(select(_APPLIED.c.version_num))).all()) == newest
    except DBAPIError:  # there is no such table yet
        return False


def check_history(migrations: Path) -> dict[str, Revision | None]:
    """The revisions of a folder. Raises MigrationError if their order is open."""
    try:
        revisions = read_revisions(migrations)
    except SyntaxError as error:
        raise MigrationError(f"{error.filename or migrations}:{error.lineno}: {error.msg}") from error
    if found := [str(one) for one in conflicts(f"migrations/{migrations.name}", revisions)]:
        raise MigrationError("\n".join(found))
    return revisions
