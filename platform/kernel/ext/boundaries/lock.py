"""The rule contract-lock: a breaking change of a contract or message is found before it is merged.

Each module has a lock of its own, `modules/<name>/contract.lock.json`, so that branches that change different modules
do not touch the same file. `kernel.ext.remote.compatibility` compares it with the current contracts, as it compares two
processes at run time.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel.ext.boundaries.described import describe
from kernel.ext.boundaries.findings import Finding
from kernel.ext.boundaries.project import Project, Slice
from kernel.ext.remote.compatibility import Difference, Effect, differences, message_differences, stored_differences

RULE = "contract-lock"
FILE = "contract.lock.json"

_RELOCK = "Run `kernel contracts lock`, and commit what it writes."

# Descriptions of the contracts and messages of one module, by name.
Described = Mapping[str, Any]


class LockError(Exception):
    """Raised if the contracts cannot be locked, or a lock cannot be read. The message says what to do."""


@dataclass(frozen=True)
class Change:
    """One change of a contract or message, as a sentence without a period."""

    text: str
    breaks: bool


@dataclass(frozen=True)
class Changes:
    """The differences between a contract or message and its lock."""

    listed: list[Change]
    # Whether the version was raised, which allows breaking changes.
    is_raised: bool = False

    @property
    def broken(self) -> list[str]:
        """The changes that break callers or subscribers and need a new version."""
        return [] if self.is_raised else [one.text for one in self.listed if one.breaks]


def check(project: Project) -> Iterator[Finding]:
    """Return the differences between the contracts and their locks, and the parts that cannot be compared."""
    current = _current(project)
    for module in project.modules.values():
        described, problem = current.get(module.name, ({}, None))
        if problem is not None:
            why = f"The contract of {module.name} cannot be evaluated, so it is not compared with its lock: {problem}."
            yield Finding(
                _contract(module), 0, RULE, why, "Correct that: `kernel check` imports contracts as the start does."
            )
            continue
        yield from _unreliable(module, described)
        yield from _compared(project, module, described)


def _compared(project: Project, module: Slice, described: Described) -> Iterator[Finding]:
    lock = f"{module.path}/{FILE}"
    try:
        old = load(project.root, module.name)
    except LockError as error:
        yield Finding(lock, 0, RULE, str(error), "Restore it from git, then run `kernel contracts lock`.")
        return
    found = compare(old, described)
    if not found and old != described:
        yield Finding(lock, 0, RULE, f"The lock of {module.name} does not match its contract.", _RELOCK)
    for name, changes in found.items():
        path, line = _place(module, name)
        full = f"{module.name}.{name}"
        if broken := changes.broken:
            why = f"{full} breaks code that relies on its locked version: {'; '.join(broken)}."
            instead = "Add a new member instead of changing this one"
            if name in old and name in described:
                version = old[name]["version"] + 1
                instead += f", or raise its version: class {name}(..., version={version})"
            yield Finding(path, line, RULE, why, f"{instead}.")
        else:
            why = f"{full} differs from its lock: {changes.listed[0].text}."
            yield Finding(path, line, RULE, why, _RELOCK)


def compare(old: Described, new: Described) -> dict[str, Changes]:
    """Return the changes of each contract and message of one module, by name."""
    found: dict[str, Changes] = {}
    for name in sorted({*old, *new}):
        one, other = old.get(name), new.get(name)
        if other is None:
            found[name] = Changes([Change("it is gone", breaks=True)])
        elif one is None:
            found[name] = Changes([Change("it is new", breaks=False)])
        elif one["format"] != other["format"]:
            text = f"its lock has the format {one['format']} of another kernel version: delete the lock, and lock again"
            found[name] = Changes([Change(text, breaks=True)])
        elif changes := _changes(name, one, other):
            found[name] = changes
    return found


def _changes(name: str, old: Any, new: Any) -> Changes | None:
    was, now = old["version"], new["version"]
    # Both with one version, so that other changes are listed for a raised version too.
    before = old | {"version": now, "oldest": new.get("oldest")}
    if "message" in old and "message" in new:
        listed = [
            *message_differences(f"{name}, published now and read by older code", reader=before, publisher=new),
            *stored_differences(f"{name}, stored by older code and read now", reader=new, publisher=before),
        ]
    else:
        listed = list(differences(name, before, new))
    changes = [_change(one) for one in listed]
    if now != was:
        text = f"its version {'was raised' if now > was else 'went down'} from {was} to {now}"
        changes.insert(0, Change(text, breaks=now < was))
    return Changes(list(dict.fromkeys(changes)), is_raised=now > was) if changes else None


def _change(difference: Difference) -> Change:
    return Change(str(difference), breaks=difference.effect is not Effect.ADDED)


def _unreliable(module: Slice, described: Described) -> Iterator[Finding]:
    """Find stored versions that cannot be read, and validators without a name, which cannot be compared."""
    for name, one in described.items():
        path, line = _place(module, name)
        if (oldest := one.get("oldest", 1)) != 1:
            why = f"{module.name}.{name} is version {one['version']}, but cannot read stored messages of version"
            instead = f"Write `@upcast({name}, from_version={oldest - 1})` beside the message."
            yield Finding(path, line, RULE, f"{why} {oldest - 1}.", instead)
        for check_ in sorted({check for check in _checks(one) if "<" in check}):
            why = f"{module.name}.{name} is validated by {check_}, which has no name and cannot be compared."
            yield Finding(path, line, RULE, why, "Use a function that is defined at the top of a file or in a class.")


def _checks(description: Any) -> Iterator[str]:
    if isinstance(description, Mapping):
        yield from description.get("x-checks", ())
    if isinstance(description, Mapping | list):
        for one in description.values() if isinstance(description, Mapping) else description:
            yield from _checks(one)


def write(project: Project, drop: Collection[str] = ()) -> str:
    """Write the locks of the contracts; return a summary.

    Raises LockError where that would break code that relies on the locked version; `drop` names contracts and messages
    that may be removed (`images.Images`).
    """
    current, broken, files = _current(project), list[str](), dict[Path, str]()
    for name, module in project.modules.items():
        described, problem = current.get(name, ({}, None))
        if problem is not None:
            raise LockError(f"Nothing was locked, because the contract of {name} cannot be evaluated: {problem}")
        broken += [f"  {one.why} {one.instead}" for one in _unreliable(module, described)]
        try:
            old = load(project.root, name)
        except LockError as error:
            raise LockError(f"{error} Restore it from git first.") from None
        for root, changes in compare(old, described).items():
            if f"{name}.{root}" not in drop or root in described:
                broken += [f"  {name}.{root}: {text}" for text in changes.broken]
        files[place(project.root, name)] = as_json(described)
    if broken:
        listed = "\n".join(broken)
        raise LockError(
            f"Nothing was locked, because this breaks code that relies on the locked versions:\n{listed}\n"
            "Raise the version (class Name(Contract, version=2)). To remove a contract or message: --drop module.Name"
        )
    written = [path for path, text in files.items() if _write(path, text)]
    count = sum(len(described) for described, _ in current.values())
    said = ", ".join(path.relative_to(project.root).as_posix() for path in written)
    return f"{f'Wrote {said}' if written else 'The locks are up to date'}: {count} contract(s) and message(s)."


def _write(path: Path, text: str) -> bool:
    """Write a lock; remove the lock of a module without contracts. Return whether the file changed."""
    if (path.read_text("utf-8") if path.is_file() else "") == text:
        return False
    if text:
        path.write_text(text, "utf-8")
    else:
        path.unlink()
    return True


def explain(project: Project) -> list[str]:
    """Return one line for each difference, with its effect. Raises LockError."""
    lines = []
    for module, (described, problem) in _current(project).items():
        if problem is not None:
            raise LockError(f"The contract of {module} cannot be evaluated: {problem}")
        for name, changes in compare(load(project.root, module), described).items():
            for one in changes.listed:
                breaks = "breaking, and its version was raised" if changes.is_raised else "BREAKING: raise its version"
                lines.append(f"{module}.{name}: {one.text} ({breaks if one.breaks else 'compatible'})")
    return lines


def _current(project: Project) -> dict[str, tuple[Described, str | None]]:
    """Return the descriptions of the modules with a contract or a lock, or why there are none."""
    with_contract = [module.name for module in project.modules.values() if module.part("contract")]
    found = describe(project.root, with_contract)
    locked: dict[str, tuple[Described, str | None]]
    locked = {name: ({}, None) for name in project.modules if place(project.root, name).exists()}
    return dict(sorted((locked | {name: (one.described, one.problem) for name, one in found.items()}).items()))


def place(root: Path, module: str) -> Path:
    """Return the lock of a module, whether or not it exists."""
    return root / "modules" / module / FILE


def load(root: Path, module: str) -> dict[str, Any]:
    """Read a lock: descriptions by name. Raises LockError."""
    path = place(root, module)
    if not path.exists():
        return {}
    try:
        lock: dict[str, Any] = json.loads(path.read_text("utf-8"), object_pairs_hook=_once)
        for one in lock.values():
            _ = one["format"], one["version"], one["message" if "message" in one else "methods"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LockError(f"{path.relative_to(root).as_posix()} cannot be read ({error!r}).") from None
    return lock


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Raise ValueError for a repeated key, which a merge can cause and JSON would drop silently."""
    keys = [key for key, _ in pairs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"{twice[0]!r} is there twice")
    return dict(pairs)


def as_json(described: Described) -> str:
    """Return the text of a lock, which does not depend on the order in the source."""
    return json.dumps(described, indent=2, sort_keys=True) + "\n" if described else ""


def _contract(module: Slice) -> str:
    sources = module.part("contract")
    return sources[0].path if sources else f"{module.path}/contract.py"


def _place(module: Slice, name: str) -> tuple[str, int]:
    """Return the file and line of a class of the contract; line 0 for a class that is gone."""
    for source in module.part("contract"):
        if (node := source.definitions.get(name)) is not None:
            return source.path, node.lineno
    return _contract(module), 0
