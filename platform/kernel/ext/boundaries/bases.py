"""The rule one-metadata: a module has one declarative base of its own, and its tables are on it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kernel.ext.boundaries.findings import COULD_NOT_CHECK, Finding
from kernel.ext.boundaries.project import Project, module_of

RULE = "one-metadata"


def check(project: Project) -> Iterator[Finding]:
    """Find tables on another module's base, a second base in one module, and migrations without a module."""
    facts = project.facts.get("metadata", {})
    for path, line, reason in facts.get("problems", ()):
        why = f"SQLAlchemy cannot read this ({reason}), so its tables were not checked."
        yield Finding(path or "modules", line, COULD_NOT_CHECK, why, "Correct that first.")
    yield from _bases(project, facts.get("bases", ()))
    yield from _tables(facts.get("tables", ()))
    yield from _homeless(project)


def _bases(project: Project, bases: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    for module in project.modules.values():
        own = {(base["path"], base["name"]): base for base in bases if base["path"].startswith(f"{module.path}/")}
        classes = [(source, node) for source in module.sources for node in source.classes]
        found = [
            (source, node, own[source.path, node.name]) for source, node in classes if (source.path, node.name) in own
        ]
        known = next((node for source, node, _ in found if source in module.part("models")), None)
        for source, node, base in found:
            if node is not known:
                why = f"{node.name} is a second declarative base of {module.name}, or one without migrations."
                yield Finding(source.path, node.lineno, RULE, why, "Keep one Base, in models.py.")
            others = [name for name in base["metadata"] if module_of(name) != module.name]
            if others or not base["is_named"]:
                said = (
                    f"shares its metadata with {others[0]}"
                    if others
                    else "has a metadata without names for constraints"
                )
                why = f"{node.name} of {module.name} {said}."
                instead = "Write `metadata = new_metadata()`, from kernel.database."
                yield Finding(source.path, node.lineno, RULE, why, instead)


def _tables(tables: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    for one in tables:
        module, base = module_of(one["path"].replace("/", ".")), one["base"]
        if module and (one["entity"] or base) and module_of(base or "") != module:
            on = f"on {base}, a declarative base" if base else "on a registry"
            why = f"The table {one['name']} is {on} that is not {module}'s own."
            instead = "Derive its class from a Base(DeclarativeBase) in this module's models.py."
            yield Finding(one["path"], one["line"], RULE, why, instead)


def _homeless(project: Project) -> Iterator[Finding]:
    for name, sources in project.migrations.items():
        if name not in project.modules and sources:
            why = f"migrations/{name or sources[0].path} belongs to no module, so its tables have no owner."
            instead = "Delete it once its tables are gone, or give the tables a module."
            yield Finding(sources[0].path, 0, RULE, why, instead)
