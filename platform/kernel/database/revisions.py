"""Whether tables are at their newest migration: the question of every start, answered without loading Alembic.

With hundreds of modules, to let Alembic import every migration ever written takes the start seconds.
"""

import re
from pathlib import Path

from sqlalchemy import Column, MetaData, String, Table, select
from sqlalchemy.exc import DBAPIError

from kernel.database.pool import Database

_APPLIED = Table("alembic_version", MetaData(), Column("version_num", String(32)))
# As our template of migrations writes them.
_REVISION = re.compile(r"""^revision = ["'](\w+)["']$""", re.MULTILINE)
_DOWN_REVISION = re.compile(r"""^down_revision = (?:["'](\w+)["']|None)$""", re.MULTILINE)


async def is_at_head(database: Database, migrations: Path) -> bool:
    """Whether the newest revisions in `migrations` are those that are applied. If in doubt, no: then Alembic decides.

    Raises DatabaseUnavailable.
    """
    newest = _heads(migrations)
    if not newest:
        return False
    try:
        async with database.read() as session:
            return set((await session.scalars(select(_APPLIED.c.version_num))).all()) == newest
    except DBAPIError:  # there is no such table yet
        return False


def _heads(migrations: Path) -> set[str]:
    """The revisions that no other builds on; none if a file says them in a way that only Python understands."""
    texts = [file.read_text() for file in migrations.glob("*.py")]
    revisions, built_on = ([pattern.search(text) for text in texts] for pattern in (_REVISION, _DOWN_REVISION))
    if None in revisions or None in built_on:
        return set()
    return {one[1] for one in revisions if one} - {one[1] for one in built_on if one}
