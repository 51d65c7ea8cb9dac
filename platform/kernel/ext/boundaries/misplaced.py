"""Find contracts and messages that the other rules cannot read."""

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
# Functions that create a class without a class statement.
_MAKE_CLASS = frozenset({"type", "create_model", "new_class"})


def unreadable(project: Project, module: Slice, source: Source) -> Iterator[Finding]:
    """Return the contracts and messages of a file that no other rule reads."""
    yield from _outside_contract(project, source)
    if source in module.part("contract"):
        yield from _hidden(module, source)


def _outside_contract(project: Project, source: Source) -> Iterator[Finding]:
    """Find contracts and messages outside contract.py, or without a class statement."""
    for node in source.classes:
        kind = next((_BASES[name] for base in node.bases if (name := followed(project, source, base)) in _BASES), None)
        if kind and part_of(source.dotted) != "contract":
            why = f"The {kind} {node.name} is not in contract.py, so no module may import it and no lock covers it."
            yield Finding(source.path, node.lineno, RULE, why, "Move it into the module's contract.py.")
    for call in source.calls:
        if last_name(call.func) in _MAKE_CLASS and any(source.named(node) in _BASES for node in ast.walk(call)):
            why = f"{last_name(call.func)}() creates a contract or message, so its members cannot be read."
            yield Finding(source.path, call.lineno, RULE, why, "Write it as a class.")


def _hidden(module: Slice, source: Source) -> Iterator[Finding]:
    """Find classes of a contract that another module cannot import by their name."""
    shown = {id(node) for node in source.definitions.values()}
    for node in source.classes:
        if id(node) not in shown:
            why = (
                f"{node.name} is inside a function or class, or defined again below, so other modules cannot import it."
            )
            yield Finding(source.path, node.lineno, RULE, why, "Define it once, at the top of the file.")
        for other in module.part("contract"):
            if other.path < source.path and isinstance(other.definitions.get(node.name), ast.ClassDef):
                why = f"{node.name} is also in {other.path}, and both would have one name on the wire."
                yield Finding(source.path, node.lineno, RULE, why, "Rename one of them.")
