"""Find out which function a call calls, through imports, aliases and assignments."""

import ast

from kernel.ext.boundaries.project import Project
from kernel.ext.boundaries.sources import Source, constant

# Stands for an object that is known only at run time: `?.execute` is a method of such an object.
ANY = "?"
_MOST_STEPS = 10
_WRAPPERS = frozenset({"functools.partial", "functools.partialmethod"})


def callee(project: Project, source: Source, node: ast.AST, steps: int = 0) -> str:
    """Return the dotted name of a called function, such as `sqlalchemy.text`.

    Follows imports, assignments (`t = sa.text`), `functools.partial` and `getattr` with a literal name, also into other
    files of the project.
    """
    match node:
        case _ if steps > _MOST_STEPS:
            found = ANY
        case ast.Call(func=func, args=[first, *rest]):
            name = callee(project, source, func, steps + 1)
            found = callee(project, source, first, steps + 1) if name in _WRAPPERS or name == "getattr" else ANY
            attribute = constant(rest[0]) if rest else None
            if name == "getattr":
                found = f"{found}.{attribute}" if attribute else ANY
        case ast.Attribute(value=value, attr=attr):
            found = _followed(project, f"{callee(project, source, value, steps + 1)}.{attr}", steps)
        case ast.Name(id=name) if name in source.names:
            found = _followed(project, source.names[name], steps)
        case ast.Name(id=name):
            found = _assigned(project, source, name)
        case _:
            found = ANY
    return found


def _assigned(project: Project, source: Source, name: str) -> str:
    """Return what a name of a file stands for. The result is kept, because names may refer to each other."""
    known, key = project.aliases, (source.path, name)
    if key not in known:
        values = [value for value, is_added in source.assigned.get(name, ()) if not is_added]
        known[key] = f"{source.dotted}.{name}" if name in source.definitions else ANY if values else name
        names = (callee(project, source, one) for one in values if _is_name(one))
        known[key] = next((one for one in names if not one.startswith(ANY)), known[key])
    return known[key]


def _is_name(node: ast.expr) -> bool:
    return isinstance(node, ast.Name | ast.Attribute | ast.Call)


def _followed(project: Project, dotted: str, steps: int) -> str:
    """Return what a name of another file of the project stands for."""
    home = project.definition(dotted) if dotted.startswith(("modules.", "kernel.")) else None
    value = getattr(home[1], "value", None) if home else None
    if home is None or not isinstance(value, ast.Name | ast.Attribute | ast.Call):
        return dotted
    found = callee(project, home[0], value, steps + 1)
    return dotted if found.startswith(ANY) else found


def called(project: Project, source: Source) -> list[tuple[ast.Call, str]]:
    """Return all calls of a file, each with the name of the called function."""
    known = project.callees
    if source.path not in known:
        known[source.path] = [(call, callee(project, source, call.func)) for call in source.calls]
    return known[source.path]
