"""Whether tables are at their newest migration: the question of every start, answered without loading Alembic.

With hundreds of modules, to let Alembic import every migration ever written takes the start seconds.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Column, MetaData, String, Table, select
from sqlalchemy.exc import DBAPIError

from kernel.database.pool import Database

_APPLIED = Table("alembic_version", MetaData(), Column("version_num", String(32)))


async def is_at_head(database: Database, migrations: Path) -> bool:
    """Whether the newest revisions in `migrations` are those that are applied. If in doubt, no: then Alembic decides.

    Raises DatabaseUnavailable.
    """
    newest = _heads(migrations)
    if not newest:
        return False
    try:
        async with database.read() as session:
            applied = frozenset((await session.scalars(select(_APPLIED.c.version_num))).all())
    except DBAPIError:  # there is no such table yet
        return False
    return applied == newest


def _heads(migrations: Path) -> frozenset[str]:
    """The revisions that no other builds on; none if a file says them in a way that only Python understands."""
    revisions: set[str] = set()
    built_on: set[str] = set()
    for file in migrations.glob("*.py"):
        said = dict(_literals(file))
        if not isinstance(said.get("revision"), str) or "down_revision" not in said:
            return frozenset()
        revisions.add(str(said["revision"]))
        below = said["down_revision"]
        built_on.update([below] if isinstance(below, str) else below if isinstance(below, tuple) else ())
    return frozenset(revisions - built_on)


def _literals(file: Path) -> Iterator[tuple[str, object]]:
    """The names that a file assigns literals to."""
    for statement in ast.parse(file.read_bytes()).body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                names, values = [name], [value]
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            case _:
                continue
        for name, value in zip(names, values, strict=False):
            try:
                yield name, ast.literal_eval(value)
            except ValueError:
                continue
