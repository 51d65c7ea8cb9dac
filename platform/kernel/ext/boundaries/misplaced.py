"""Contracts and messages that are not where, or not what, the rules read."""

import ast
from collections.abc import Iterator

from kernel.ext.boundaries.annotations import followed
from kernel.ext.boundaries.contracts import KINDS
from kernel.ext.boundaries.findings import Finding
from kernel.ext.boundaries.project import Project, Slice, part_of
from kernel.ext.boundaries.shapes import ROOTS
from kernel.ext.boundaries.sources import Source, last_name

RULE = "values-only"

_BASES = {name: kind for name, kind in KINDS.items() if kind in ROOTS}
# What makes a class without a class statement.
_MAKE_CLASS = frozenset({"type", "create_model", "new_class"})


def unreadable(project: Project, module: Slice, source: Source) -> Iterator[Finding]:
    """What a file of a module has of contracts and messages that no rule would find."""
    yield from _astray(project, source)
    if source in module.part("contract"):
        yield from _hidden(module, source)


def _astray(project: Project, source: Source) -> Iterator[Finding]:
    """Contracts and messages that no other rule finds."""
    for node in source.classes:
        kind = next((_BASES[name] for base in node.bases if (name := followed(project, source, base)) in _BASES), None)
        if kind and part_of(source.dotted) != "contract":
            why = f"The {kind} {node.name} is not in contract.py, so nobody may import it and no lock keeps it."
            yield Finding(source.path, node.lineno, RULE, why, "Move it into the module's contract.py.")
    for call in source.calls:
        if last_name(call.func) in _MAKE_CLASS and any(source.named(node) in _BASES for node in ast.walk(call)):
            why = f"A contract or message is made by {last_name(call.func)}(), so nobody can read what it has."
            yield Finding(source.path, call.lineno, RULE, why, "Write it as a class.")


def _hidden(module: Slice, source: Source) -> Iterator[Finding]:
    """Classes of a contract that are not what their name stands for, read from outside."""
    shown = {id(node) for node in source.definitions.values()}
    for node in source.classes:
        if id(node) not in shown:
            why = f"{node.name} is in a function or a class, or defined again below, so it is not what others import."
            yield Finding(source.path, node.lineno, RULE, why, "Define it once, at the top of the file.")
        for other in module.part("contract"):
            if other.path < source.path and isinstance(other.definitions.get(node.name), ast.ClassDef):
                why = f"{node.name} is in {other.path}, too, and is called the same on the wire."
                yield Finding(source.path, node.lineno, RULE, why, "Give one of them another name.")
