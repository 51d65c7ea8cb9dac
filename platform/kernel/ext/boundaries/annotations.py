"""Types in one spelling, so that two ways to write the same type are equal."""

import ast
import re
from collections.abc import Iterator, Mapping

from kernel.ext.boundaries.project import Project, part_of
from kernel.ext.boundaries.sources import Source, argument, last_name

_SPELLINGS = {
    "typing.List": "list",
    "typing.Dict": "dict",
    "typing.Set": "set",
    "typing.FrozenSet": "frozenset",
    "typing.Tuple": "tuple",
    "typing.Sequence": "collections.abc.Sequence",
    "typing.Mapping": "collections.abc.Mapping",
    "typing.AbstractSet": "collections.abc.Set",
    "typing_extensions.Self": "typing.Self",
}
_OUR_ALIASES = ("modules.", "kernel.ext.fields.")


def spell(  # noqa: PLR0911  # one for each kind of expression
    project: Project, source: Source, node: ast.expr | None, seen: frozenset[str] = frozenset()
) -> str:
    """Return a type in one spelling, however it was written; "" for a missing type.

    Names are in full, a class of a contract as if it stood in contract.py; aliases are replaced by what they stand
    for; unions are sorted; a type variable is its name; the notes of Annotated are left out.
    """
    match node:
        case None:
            return ""
        case ast.Constant(value=None):
            return "None"
        case ast.Constant(value=str(text)):
            try:
                return spell(project, source, ast.parse(text, mode="eval").body, seen)
            except SyntaxError:
                return text
        case ast.BinOp(op=ast.BitOr()):
            return union([spell(project, source, node.left, seen), spell(project, source, node.right, seen)])
        case ast.Subscript():
            return _subscript(project, source, node, seen)
        case ast.Name() | ast.Attribute():
            return _name(project, source, node, seen)
        case ast.List():  # of Callable
            return f"[{', '.join(spell(project, source, one, seen) for one in node.elts)}]"
    return ast.unparse(node)


def _name(project: Project, source: Source, node: ast.expr, seen: frozenset[str]) -> str:
    dotted = source.named(node) or ast.unparse(node)
    home = project.definition(dotted) if dotted.startswith(_OUR_ALIASES) and dotted not in seen else None
    if home is None:
        return _SPELLINGS.get(dotted, dotted)
    found, statement = home
    name = dotted.rpartition(".")[2]
    if isinstance(statement, ast.ClassDef):
        # The module may move a class to another file of contract/.
        home_name = ".".join(found.dotted.split(".")[:3]) if part_of(found.dotted) == "contract" else found.dotted
        return f"{home_name}.{name}"
    value = getattr(statement, "value", None)
    if isinstance(value, ast.Call) and last_name(value.func) == "TypeVar":
        return f"{found.dotted}.{name}"
    if isinstance(value, ast.Call) and last_name(value.func) in {"NewType", "TypeAliasType"}:
        value = argument(value, "tp", 1) or argument(value, "value", 1)
    return spell(project, found, value, seen | {dotted}) if value is not None else dotted


def _subscript(project: Project, source: Source, node: ast.Subscript, seen: frozenset[str]) -> str:
    base = spell(project, source, node.value, seen)
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    last = base.rpartition(".")[2]
    if last == "Literal":
        given = sorted({ast.unparse(one) for one in parts} - {"None"})
        none = ["None"] if len(given) < len(parts) and any(ast.unparse(one) == "None" for one in parts) else []
        return union([*([f"Literal[{', '.join(given)}]"] if given else []), *none])
    if last == "Annotated":
        return spell(project, source, parts[0], seen)
    spelled = [spell(project, source, one, seen) for one in parts]
    if last == "Optional":
        return union([*spelled, "None"])
    if last == "Union":
        return union(spelled)
    return f"{base}[{', '.join(spelled)}]"


def followed(project: Project, source: Source, node: ast.expr) -> str:
    """Return the name of a base class where it is defined. Follows aliases and imports through the project's files."""
    dotted = source.named(node.value if isinstance(node, ast.Subscript) else node) or ast.unparse(node)
    for _ in range(20):
        home, _, name = dotted.rpartition(".")
        found = project.source(home)
        statement = found.definitions.get(name) if found else None
        value = getattr(statement, "value", None)
        if found and isinstance(value, ast.Name | ast.Attribute):
            dotted = found.named(value) or dotted
        elif found and statement is None and name in found.names:
            dotted = found.names[name]
        elif found and statement is None and (defined := project.definition(dotted)):
            dotted = f"{defined[0].dotted}.{name}"
        else:
            break
    return dotted


def union(parts: list[str]) -> str:
    """Return the union of types, sorted."""
    single = {one for part in parts for one in members(part)}
    return " | ".join(sorted(single, key=lambda one: (one == "None", one)))


def members(spelled: str) -> list[str]:
    """Return the members of a union, or the type itself."""
    tree = tree_of(spelled)
    if isinstance(tree, ast.Constant) and tree.value is not None:
        return [spelled]
    found: list[str] = []
    while isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
        found.append(ast.unparse(tree.right))
        tree = tree.left
    return [ast.unparse(tree), *reversed(found)]


def parts_of(node: ast.expr) -> tuple[str, list[ast.expr]]:
    """Return a type and its type arguments."""
    if isinstance(node, ast.Subscript):
        return ast.unparse(node.value), node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return ast.unparse(node), []


def tree_of(spelled: str) -> ast.expr:
    """Return a spelled type as an expression; as a constant if it is not one."""
    try:
        return ast.parse(spelled or "None", mode="eval").body
    except SyntaxError:
        return ast.Constant(spelled)


def substituted(spelled: str, given: Mapping[str, str]) -> str:
    """Return a type with its type variables replaced."""
    return union([re.sub(r"[\w.]+", lambda name: given.get(name[0], name[0]), spelled)]) if given else spelled


def classes_in(spelled: str) -> Iterator[str]:
    """Return the classes of contracts that a type names, as `module.Name`."""
    for module, name in re.findall(r"\bmodules\.(\w+)\.contract\.(\w+)", spelled):
        yield f"{module}.{name}"
