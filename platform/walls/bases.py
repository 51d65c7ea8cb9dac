"""The rule one-metadata: a module's tables are on a declarative base of its own, and every table has a module."""

import ast
from collections.abc import Iterator

from walls.findings import Finding
from walls.project import Project, Slice, module_of
from walls.sources import Source, class_value, last_name

RULE = "one-metadata"
_BASES = frozenset({"sqlalchemy.orm.DeclarativeBase", "sqlalchemy.orm.DeclarativeBaseNoMeta"})
_MAKE_BASE = frozenset(
    {"sqlalchemy.orm.declarative_base", "sqlalchemy.ext.declarative.declarative_base", "sqlalchemy.orm.registry"}
)


def check(project: Project) -> Iterator[Finding]:
    """Tables on somebody else's base, two bases in one module, tables and migrations of no module."""
    for module, source in project.of_modules():
        yield from _one_base(project, module, source)
    yield from _homeless(project)


def _one_base(project: Project, module: Slice, source: Source) -> Iterator[Finding]:
    known = next((base for each in module.part("models") for base in _bases(each)), None)
    bases = _bases(source)
    for node in source.classes:
        if node in bases:
            yield from _own_metadata(project, module, source, node)
            if node is not known:
                why = f"{node.name} is a second declarative base of {module.name}, or one that nobody migrates."
                yield Finding(source.path, node.lineno, RULE, why, "Keep one Base, in models.py.")
        elif class_value(node, "__tablename__") is not None or class_value(node, "__table__") is not None:
            home = _base_of(project, source, node)
            if home is not None and module_of(home) != module.name:
                why = f"The table of {node.name} is on {home}, a declarative base that is not {module.name}'s own."
                instead = "Derive it from a Base(DeclarativeBase) in this module's models.py."
                yield Finding(source.path, node.lineno, RULE, why, instead)
    for call in source.calls:
        if source.named(call.func) in _MAKE_BASE:
            why = "This makes a declarative base that nobody can read, and perhaps the second of its module."
            instead = "Write `class Base(DeclarativeBase)` in models.py, once."
            yield Finding(source.path, call.lineno, RULE, why, instead)


def _bases(source: Source) -> list[ast.ClassDef]:
    """The declarative bases of a file."""
    return [node for node in source.classes if any(source.named(base) in _BASES for base in node.bases)]


def _own_metadata(project: Project, module: Slice, source: Source, node: ast.ClassDef) -> Iterator[Finding]:
    path, value, dotted = source.path, class_value(node, "metadata") or class_value(node, "registry"), None
    if isinstance(value, ast.Name | ast.Attribute):
        dotted = source.named(value)
        home = project.definition(dotted or "")
        value = getattr(home[1], "value", None) if home and module_of(home[0].dotted) == module.name else None
        source = home[0] if home else source
    if not isinstance(value, ast.Call):
        said = f"has the metadata {dotted}, which others may have, too" if dotted else "says nothing of its metadata"
    elif not (source.named(value.func) or "").startswith("kernel.") or last_name(value.func) == "MetaData":
        said = f"has the metadata {ast.unparse(value)}, whose constraints have no names that a migration could use"
    else:
        return
    why = f"{node.name} of {module.name} {said}."
    yield Finding(path, node.lineno, RULE, why, "Say `metadata = new_metadata()`, from kernel.database.")


def _base_of(project: Project, source: Source, node: ast.ClassDef, seen: tuple[ast.ClassDef, ...] = ()) -> str | None:
    """Where the declarative base of an entity is defined, dotted; None where no class of ours leads to one."""
    for base in node.bases if node not in seen else ():
        dotted = source.named(base)
        if dotted is None:
            continue
        if dotted in _BASES:
            return f"{source.dotted}.{node.name}"
        home = project.definition(dotted)
        if home is None:
            continue
        if isinstance(home[1], ast.ClassDef) and (found := _base_of(project, home[0], home[1], (*seen, node))):
            return found
        if isinstance(home[1], ast.Assign) and home[0].named(getattr(home[1].value, "func", None)) in _MAKE_BASE:
            return f"{home[0].dotted}.{dotted.rpartition('.')[2]}"
    return None


def _homeless(project: Project) -> Iterator[Finding]:
    for source in project.kernel:
        for node in source.classes:
            if class_value(node, "__tablename__") is not None and _base_of(project, source, node):
                why = f"{node.name} is a table with no module: nobody migrates it, and no role has rights on it."
                yield Finding(source.path, node.lineno, RULE, why, "Move it into a module's models.py.")
    for name, sources in project.migrations.items():
        if name not in project.modules and sources:
            why = f"migrations/{name or sources[0].path} belongs to no module, so its tables are nobody's."
            instead = "Delete it once its tables are gone, or give the tables a module."
            yield Finding(sources[0].path, 0, RULE, why, instead)
