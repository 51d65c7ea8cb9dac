"""The revisions in a folder of migrations, read without running them or loading Alembic.

Every start asks it, and so does `kernel check`: two branches that each add `0002_*.py` merge without a conflict in git,
and Alembic would take one of them for the whole history.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Revision:
    """One file of a history: its number, and those that it builds on."""

    number: str
    after: tuple[str, ...]


@dataclass(frozen=True)
class Conflict:
    """Two files of one history that cannot both hold, or one that builds on nothing."""

    files: tuple[str, ...]
    why: str
    instead: str

    def __str__(self) -> str:
        return f"{self.why} {self.instead}"


def read_revisions(folder: Path) -> dict[str, Revision | None]:
    """The revisions of a folder by file name; None for a file that says them in a way that only running it shows."""
    files = [file for file in sorted(folder.glob("*.py")) if file.name != "__init__.py"]
    return {file.name: read_revision(ast.parse(file.read_bytes(), str(file))) for file in files}


def read_revision(tree: ast.Module) -> Revision | None:
    """The `revision` and `down_revision` of a file, as Alembic's templates write them."""
    found = {name: value for statement in tree.body for name, value in _assigned(statement)}
    try:
        number, after = (ast.literal_eval(found[name]) for name in ("revision", "down_revision"))
    except (KeyError, ValueError):
        return None
    after = (after,) if isinstance(after, str) else tuple(after or ())
    return Revision(number, after) if isinstance(number, str) else None


def heads(revisions: Mapping[str, Revision | None]) -> set[str]:
    """The revisions that no other builds on; none if one cannot be read."""
    known = [one for one in revisions.values() if one is not None]
    if len(known) < len(revisions):
        return set()
    return {one.number for one in known} - {number for one in known for number in one.after}


def conflicts(folder: str, revisions: Mapping[str, Revision | None]) -> Iterator[Conflict]:
    """Yield what makes the history in `folder` ambiguous: a duplicate number, several heads, a missing link."""
    files: dict[str, list[str]] = defaultdict(list)
    for name, one in revisions.items():
        if one is not None:
            files[one.number].append(f"{folder}/{name}")
    doubled = {number: names for number, names in files.items() if len(names) > 1}
    for number, names in doubled.items():
        why = f"{' and '.join(names)} are both revision {number}: one of them would never be applied."
        instead = "Give the one that is not released yet the next free number, and let it follow the other."
        yield Conflict(tuple(names), why, instead)
    if doubled or None in revisions.values():
        return
    for name, one in revisions.items():
        for number in one.after if one is not None else ():
            if number not in files:
                why = f"{folder}/{name} follows revision {number}, which no file of {folder} has."
                yield Conflict((f"{folder}/{name}",), why, "Let its down_revision name the revision before it.")
                return
    last = sorted(heads(revisions))
    if len(last) > 1:
        names = [files[number][0] for number in last]
        why = f"{' and '.join(names)} are each the end of the history: the order in which they apply is open."
        yield Conflict(tuple(names), why, f"Let {names[-1]} follow {last[-2]}: set its down_revision to it.")


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
