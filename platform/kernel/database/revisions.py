"""The revisions of a module's migrations, read without running them or loading Alembic.

Every start asks whether the newest one is applied: with hundreds of modules, to let Alembic import every migration ever
written takes seconds. The order is checked, too: two branches that each add `0002_*.py` merge without a conflict in
git, and Alembic would take one of them for the whole history.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Column, MetaData, String, Table, select
from sqlalchemy.exc import DBAPIError

from kernel.database.errors import MigrationError
from kernel.database.pool import Database

_APPLIED = Table("alembic_version", MetaData(), Column("version_num", String(32)))


class Revision(NamedTuple):
    """One file of a history: its number, and those that it builds on."""

    number: str
    after: tuple[str, ...]


# By the name of the file; None for a file that says its number in a way that only running it shows.
Revisions = Mapping[str, Revision | None]


async def is_at_head(database: Database, folder: Path) -> bool:
    """Return whether the newest revision in `folder` is applied. In doubt return False: then Alembic decides.

    Raises DatabaseUnavailable; MigrationError if there is no newest revision.
    """
    if not (newest := _heads(read_history(folder))):
        return False
    try:
        async with database.read() as session:
            return set((await session.scalars(select(_APPLIED.c.version_num))).all()) == newest
    except DBAPIError:  # there is no such table yet
        return False


def read_history(folder: Path) -> Revisions:
    """Return the revisions of a folder. Raises MigrationError if their order is open."""
    files = [file for file in sorted(folder.glob("*.py")) if file.name != "__init__.py"]
    try:
        revisions = {file.name: read_revision(ast.parse(file.read_bytes(), str(file))) for file in files}
    except SyntaxError as error:
        raise MigrationError(f"{error.filename or folder}:{error.lineno}: {error.msg}") from error
    if found := [f"{why} {instead}" for _, why, instead in conflicts(f"migrations/{folder.name}", revisions)]:
        raise MigrationError("\n".join(found))
    return revisions


def read_revision(tree: ast.Module) -> Revision | None:
    """The `revision` and `down_revision` of a file, as Alembic's templates write them."""
    found = {name: value for statement in tree.body for name, value in _assigned(statement)}
    try:
        number, after = (ast.literal_eval(found[name]) for name in ("revision", "down_revision"))
    except (KeyError, ValueError):
        return None
    after = (after,) if isinstance(after, str) else tuple(after or ())
    return Revision(number, after) if isinstance(number, str) else None


def conflicts(folder: str, revisions: Revisions) -> Iterator[tuple[str, str, str]]:
    """Yield what makes a history ambiguous: a duplicate number, a missing link, several heads.

    Each is a file, what is wrong, and what to do instead.
    """
    files: dict[str, list[str]] = defaultdict(list)
    for name, one in revisions.items():
        if one is not None:
            files[one.number].append(f"{folder}/{name}")
    for number, names in files.items():
        if len(names) > 1:
            why = f"{' and '.join(names)} are both revision {number}: one of them would never be applied."
            instead = "Give the one that is not released yet the next free number, and let it follow the other."
            yield names[-1], why, instead
    if len(files) < len(revisions):  # a number twice, or one that cannot be read
        return
    for name, one in revisions.items():
        for before in one.after if one is not None else ():
            if before not in files:
                why = f"{folder}/{name} follows revision {before}, which no file of {folder} has."
                yield f"{folder}/{name}", why, "Let its down_revision name the revision before it."
                return
    last = sorted(_heads(revisions))
    if len(last) > 1:
        names = [files[number][0] for number in last]
        why = f"{' and '.join(names)} are each the end of the history: the order in which they apply is open."
        yield names[-1], why, f"Let {names[-1]} follow {last[-2]}: set its down_revision to it."


def _heads(revisions: Revisions) -> set[str]:
    """The revisions that no other builds on; none if one cannot be read."""
    known = [one for one in revisions.values() if one is not None]
    if len(known) < len(revisions):
        return set()
    return {one.number for one in known} - {number for one in known for number in one.after}


def _assigned(statement: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
        yield statement.target.id, statement.value
    if not isinstance(statement, ast.Assign):
        return
    for target in statement.targets:
        if isinstance(target, ast.Name):
            yield target.id, statement.value
        elif isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):
            pairs = zip(target.elts, statement.value.elts, strict=False)
            yield from ((one.id, value) for one, value in pairs if isinstance(one, ast.Name))
