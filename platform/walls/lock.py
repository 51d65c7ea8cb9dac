"""The rule contract-lock: who relies on a contract learns of a breaking change before it lands."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from walls.annotations import classes_in
from walls.compatibility import OPTIONS, Change, changes
from walls.contracts import read_all
from walls.findings import Finding
from walls.project import Project
from walls.shapes import ROOTS, Member, Method, Shape

RULE = "contract-lock"
FILE = "contracts.lock.json"

_RELOCK = "Run `kernel contracts lock`, and commit what it writes."


class LockError(Exception):
    """The contracts cannot be locked, or the lock cannot be read. The message says what to do."""


@dataclass(frozen=True)
class Difference:
    """How a contract or message differs from what is locked."""

    changes: list[Change]
    # Whether its version was raised, so that it may break.
    is_raised: bool

    @property
    def broken(self) -> list[str]:
        """What breaks somebody, and may not."""
        return [] if self.is_raised else [one.text for one in self.changes if one.breaks]


def check(project: Project) -> Iterator[Finding]:
    """Where the contracts differ from what is locked."""
    try:
        old = load(project.root)
    except LockError as error:
        yield Finding(FILE, 0, RULE, str(error), "Take it back from git, then run `kernel contracts lock`.")
        return
    new = current(project)
    differences = compare(old, new, project.modules)
    if not differences and (stale := _stale(old, new)):
        yield Finding(FILE, 0, RULE, f"It is not as the contracts are: {stale}.", _RELOCK)
    for name, difference in differences.items():
        module, _, root = name.partition(".")
        path = f"modules/{module}/contract.py" if module in project.modules else FILE
        path, line = (new[name].path, new[name].line) if name in new else (path, 0)
        if broken := difference.broken:
            why = f"{name} breaks those who rely on it: {'; '.join(broken)}."
            instead = "Add beside instead of changing"
            if name in old:
                instead += f", or raise it: class {root}(..., version={old[name].version + 1})"
            yield Finding(path, line, RULE, why, f"{instead}.")
        else:
            why = f"{name} is not as it is locked: {difference.changes[0].text}."
            yield Finding(path, line, RULE, why, _RELOCK)


def compare(old: Mapping[str, Shape], new: Mapping[str, Shape], modules: Collection[str]) -> dict[str, Difference]:
    """The differences of each contract and message, with all that can be reached from it, by `module.Name`."""
    found: dict[str, Difference] = {}
    for name in sorted({*old, *new}):
        one, other = old.get(name), new.get(name)
        if not any(each and each.kind in ROOTS for each in (one, other)):
            continue
        is_raised = False
        if other is None:
            listed = [Change("it is gone", breaks=name.partition(".")[0] in modules)]
        elif not other.version:
            listed = [Change("its version is no number from 1 that is written out", breaks=True)]
        elif one is None:
            listed = [Change("it is new", breaks=False)]
        else:
            listed, is_raised = list(changes(name, old, new)), other.version > one.version
            if other.version != one.version:
                how = "was raised" if is_raised else "went down"
                text = f"its version {how} from {one.version} to {other.version}"
                listed.insert(0, Change(text, breaks=not is_raised))
        # What goes in and out is compared both ways; where one of them breaks, it breaks.
        breaking = {each.text for each in listed if each.breaks}
        unique = [Change(text, text in breaking) for text in dict.fromkeys(each.text for each in listed)]
        if unique:
            found[name] = Difference(unique, is_raised)
    return found


def _stale(old: Mapping[str, Shape], new: Mapping[str, Shape]) -> str:
    """What else differs: an error is new, a value is no longer handed out."""
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return ", ".join(
        f"{name} is {'new' if name not in old else 'gone' if name not in new else 'changed'}" for name in names
    )


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
        f"  {name}: {text}"
        for name, difference in compare(old, new, project.modules).items()
        for text in difference.broken
        if not (name in drop and name not in new)
    ]
    if broken:
        listed = "\n".join(broken)
        raise LockError(
            f"Nothing was locked, because this breaks those who rely on it:\n{listed}\n"
            "Raise the version (class Name(Contract, version=2)); a contract that shall go: --drop module.Name"
        )
    count = sum(one.kind in ROOTS for one in new.values())
    text, path = as_json(new), project.root / FILE
    if path.is_file() and path.read_text("utf-8") == text:
        return f"{FILE} is up to date: {count} contract(s) and message(s)."
    path.write_text(text, "utf-8")
    return f"Wrote {FILE}: {count} contract(s) and message(s)."


def explain(project: Project) -> list[str]:
    """Each difference in a line, with what it means. Raises LockError for a lock that cannot be read."""
    old, new, lines = load(project.root), current(project), list[str]()
    differences = compare(old, new, project.modules)
    if not differences and (stale := _stale(old, new)):
        lines.append(f"{stale} (breaks nobody)")
    for name, difference in differences.items():
        for one in difference.changes:
            breaks = "breaks, and its version was raised" if difference.is_raised else "BREAKING: raise its version"
            lines.append(f"{name}: {one.text} ({breaks if one.breaks else 'breaks nobody'})")
    return lines


def current(project: Project) -> dict[str, Shape]:
    """The contracts and messages as they are now, with all that can be reached from them, by `module.Name`."""
    every = read_all(project)
    for one in every.values():
        one.options = {key: value for key, value in one.options.items() if key in OPTIONS}
    found: dict[str, Shape] = {}
    waiting = [name for name, one in every.items() if one.kind in ROOTS]
    # What a contract raises is nowhere in its signatures: the errors beside it are its own.
    asked = {name.partition(".")[0] for name, one in every.items() if one.kind == "contract"}
    waiting += [name for name, one in every.items() if one.kind == "error" and name.partition(".")[0] in asked]
    while waiting:
        name = waiting.pop()
        if name in every and name not in found and every[name].kind != "other":
            found[name] = one = every[name]
            members = list(one.fields.values())
            for method in one.methods.values():
                members += [*method.parameters.values(), method.result]
            waiting += [other for member in members for other in classes_in(member.type)]
    return found


def load(root: Path) -> dict[str, Shape]:
    """What is locked, by `module.Name`. Raises LockError."""
    path = root / FILE
    if not path.exists():
        return {}
    try:
        lock = json.loads(path.read_text("utf-8"), object_pairs_hook=_once)
        return {f"{module}.{name}": _shape(one) for module, classes in lock.items() for name, one in classes.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LockError(f"{FILE} cannot be read ({error!r}).") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without a repeated key: a merge that kept both sides would lose one in silence."""
    keys = [key for key, _ in pairs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"{twice[0]!r} is there twice")
    return dict(pairs)


def as_json(shapes: Mapping[str, Shape]) -> str:
    """The lock's text: the same for the same contracts, in whatever order they are written."""
    lock: dict[str, dict[str, Any]] = {}
    for name in sorted(shapes):
        module, _, short = name.partition(".")
        lock.setdefault(module, {})[short] = _plain(shapes[name])
    return json.dumps(lock, indent=2) + "\n"


def _plain(shape: Shape) -> dict[str, Any]:
    """A shape as it is locked; what is empty is left out."""
    # Only the fields of a tuple have an order.
    fields = shape.fields.items() if shape.kind == "tuple" else sorted(shape.fields.items())
    plain = {
        "kind": shape.kind,
        "version": shape.version if shape.kind in ROOTS else None,
        "options": dict(sorted(shape.options.items())),
        "fields": {name: {"type": one.type, "required": one.required} for name, one in fields},
        "methods": {
            method: {
                "safe": one.safe,
                "parameters": [
                    {"name": name, "type": each.type, "required": each.required, "kind": each.kind}
                    for name, each in one.parameters.items()
                ],
                "returns": one.result.type,
            }
            for method, one in sorted(shape.methods.items())
        },
    }
    return {key: value for key, value in plain.items() if value not in ({}, None)}


def _shape(plain: Mapping[str, Any]) -> Shape:
    """What was locked; raises what comes of anything else."""
    methods = {}
    for name, one in plain.get("methods", {}).items():
        given = {each["name"]: Member(str(each["type"]), each["required"], each["kind"]) for each in one["parameters"]}
        methods[name] = Method(given, Member(str(one["returns"]), required=True), one["safe"])
    fields = {name: Member(str(one["type"]), one["required"]) for name, one in plain.get("fields", {}).items()}
    options = {name: str(value) for name, value in plain.get("options", {}).items()}
    return Shape(plain["kind"], int(plain.get("version", 1)), fields, methods, options)
