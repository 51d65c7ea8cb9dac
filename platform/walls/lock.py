"""The rule contract-lock: who relies on a contract learns of a breaking change before it lands."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from walls.compatibility import breaks
from walls.contracts import Shape, read
from walls.findings import Finding
from walls.project import Project

RULE = "contract-lock"
FILE = "contracts.lock.json"

# A class as it is locked: kind, version, and its members with their types; and all classes by module and name.
Locked = dict[str, Any]
Lock = dict[str, dict[str, Locked]]

_RELOCK = "Run `kernel contracts lock`, and commit what it writes."


class LockError(Exception):
    """The contracts cannot be locked, or the lock cannot be read. The message says what to do."""


def check(project: Project) -> Iterator[Finding]:
    """Where the contracts differ from what is locked."""
    try:
        old = load(project.root)
    except LockError as error:
        yield Finding(FILE, 0, RULE, str(error), "Take it back from git, then run `kernel contracts lock`.")
        return
    new, shapes = current(project), _shapes(project)
    for name, differences in compare(old, new).items():
        module, _, root = name.partition(".")
        shape = shapes.get(name)
        path = (
            shape.source.path if shape else FILE if module not in project.modules else f"modules/{module}/contract.py"
        )
        line = shape.node.lineno if shape else 0
        if broken := [one for one in differences if one.is_breaking]:
            why = f"{name} breaks those who rely on it: {'; '.join(one.text for one in broken)}."
            instead = (
                f"Add beside instead of changing, or raise it: class {root}(..., version={_version(old, name) + 1})."
            )
            yield Finding(path, line, RULE, why, instead)
        elif differences:
            why = f"{name} is not as it is locked: {differences[0].text}."
            yield Finding(path, line, RULE, why, _RELOCK)


class Difference:
    """How a contract or message differs from what is locked."""

    def __init__(self, text: str, *, is_breaking: bool) -> None:
        self.text = text
        # Whether it breaks somebody, and the version was not raised.
        self.is_breaking = is_breaking


def compare(old: Lock, new: Lock) -> dict[str, list[Difference]]:
    """The differences of each contract and message, by `module.Name`, with all that can be reached from it."""
    found: dict[str, list[Difference]] = {}
    for module in sorted({*old, *new}):
        before, now = old.get(module, {}), new.get(module, {})
        for name in sorted({*before, *now}):
            one, other = before.get(name), now.get(name)
            if not _is_root(one or {}) and not _is_root(other or {}):
                continue
            if differences := list(_differences(name, before, now, gone=module not in new)):
                found[f"{module}.{name}"] = differences
    return found


def _differences(
    name: str, before: Mapping[str, Locked], now: Mapping[str, Locked], *, gone: bool
) -> Iterator[Difference]:
    one, other = before.get(name), now.get(name)
    if one is None:
        yield Difference("it is new", is_breaking=False)
    elif other is None:
        yield Difference("it is gone", is_breaking=not gone)
    else:
        broken = list(breaks(name, before, now))
        if other["version"] < one["version"]:
            yield Difference(f"its version went down from {one['version']} to {other['version']}", is_breaking=True)
        for text in broken:
            yield Difference(text, is_breaking=other["version"] <= one["version"])
        if not broken and _reached(name, before) != _reached(name, now):
            yield Difference("it has changed, in a way that breaks nobody", is_breaking=False)


def write(project: Project, drop: frozenset[str] = frozenset()) -> str:
    """Lock the contracts as they are; says what was done.

    Raises LockError where that would break somebody without a raised version; `drop` names those that may go
    (`images.Images`).
    """
    try:
        old = load(project.root)
    except LockError as error:
        raise LockError(f"{error} Take it back from git first.") from None
    new = current(project)
    broken = [
        f"  {name}: {one.text}"
        for name, differences in compare(old, new).items()
        for one in differences
        if one.is_breaking and not (name in drop and one.text == "it is gone")
    ]
    if broken:
        listed = "\n".join(broken)
        raise LockError(
            f"Nothing was locked, because this breaks those who rely on it:\n{listed}\n"
            "Raise the version (class Name(Contract, version=2)); a contract that shall go: --drop module.Name"
        )
    count = sum(_is_root(one) for classes in new.values() for one in classes.values())
    if new == old:
        return f"{FILE} is up to date: {count} contract(s) and message(s)."
    (project.root / FILE).write_text(json.dumps(new, indent=2, sort_keys=True) + "\n", "utf-8")
    return f"Wrote {FILE}: {count} contract(s) and message(s)."


def explain(project: Project) -> list[str]:
    """Each difference in a line. Raises LockError for a lock that cannot be read."""
    old, new = load(project.root), current(project)
    return [
        f"{name}: {one.text}{' (BREAKING: raise its version)' if one.is_breaking else ''}"
        for name, differences in compare(old, new).items()
        for one in differences
    ]


def load(root: Path) -> Lock:
    """What is locked. Raises LockError."""
    path = root / FILE
    if not path.is_file():
        return {}
    try:
        lock: Lock = json.loads(path.read_text("utf-8"))
        for classes in lock.values():
            for one in classes.values():
                _ = one["kind"], int(one["version"]), one["fields"].items(), one["methods"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LockError(f"{FILE} cannot be read ({error!r}).") from None
    return lock


def current(project: Project) -> Lock:
    """The contracts as they are now."""
    lock: Lock = {}
    for module in project.modules.values():
        every = {name: _locked(shape) for name, shape in read(project, module).items() if shape.kind != "other"}
        roots = [name for name, one in every.items() if _is_root(one)]
        if roots:
            lock[module.name] = {name: one for root in roots for name, one in _reached(root, every).items()}
    return lock


def _locked(shape: Shape) -> Locked:
    return {
        "kind": shape.kind,
        "version": shape.version,
        "fields": {name: {"type": one.type, "required": one.required} for name, one in shape.fields.items()},
        "methods": {
            method: {
                "safe": method in shape.safe,
                "returns": members["return"].type,
                "parameters": [
                    {"name": name, "type": one.type, "required": one.required, "kind": one.kind}
                    for name, one in members.items()
                    if name != "return"
                ],
            }
            for method, members in shape.methods.items()
        },
    }


def _shapes(project: Project) -> dict[str, Shape]:
    return {
        f"{one.name}.{name}": shape for one in project.modules.values() for name, shape in read(project, one).items()
    }


def _is_root(locked: Mapping[str, Any]) -> bool:
    return locked.get("kind") in {"contract", "message", "error"}


def _version(lock: Lock, name: str) -> int:
    module, _, root = name.partition(".")
    return int(lock.get(module, {}).get(root, {"version": 0})["version"])


def _reached(name: str, classes: Mapping[str, Locked]) -> dict[str, Locked]:
    """A class and those of the same contract that its members name, without what is theirs in the version."""
    found: dict[str, Locked] = {}
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one in classes and one not in found:
            found[one] = classes[one]
            waiting += [other for other in classes if f".{other}" in json.dumps(classes[one])]
    return found
