"""The rule values-only: what a contract hands out must fit into a message between two processes."""

import ast
from collections.abc import Iterator

from walls.contracts import Member, Shape, config_says, members, read
from walls.findings import Finding
from walls.project import Project, Slice, module_of, part_of
from walls.sources import last_name

RULE = "values-only"

_PLAIN = frozenset(
    {
        "str", "int", "float", "bool", "bytes", "None", "Literal", "Annotated", "Ellipsis", "...",
        "datetime.datetime", "datetime.date", "datetime.time", "datetime.timedelta", "uuid.UUID", "decimal.Decimal",
        "pathlib.Path", "pathlib.PurePosixPath", "ipaddress.IPv4Address", "ipaddress.IPv6Address", "typing.Self",
        "zoneinfo.ZoneInfo", "fractions.Fraction",
    }
)  # fmt: skip
_CONTAINERS = frozenset(
    {
        "list", "dict", "set", "frozenset", "tuple", "collections.abc.Sequence", "collections.abc.Mapping",
        "collections.abc.Set", "typing.ClassVar", "typing.Final", "typing.Required", "typing.NotRequired",
    }
)  # fmt: skip
_MUTABLE = frozenset({"list", "dict", "set", "collections.abc.MutableSequence", "collections.abc.MutableMapping"})
# Where other types come from, and what they are.
_ORIGINS = {
    "sqlalchemy": "belongs to the database",
    "fastapi": "belongs to one request",
    "starlette": "belongs to one request",
    "kernel.database": "belongs to the database",
    "kernel.web": "belongs to one request",
    "httpx2": "is a connection",
    "typing.Any": "says nothing of what crosses",
    "object": "says nothing of what crosses",
    "pydantic.BaseModel": "says nothing of what crosses",
    "collections.abc": "is code or a stream, and stays in its process",
    "typing": "is code or a stream, and stays in its process",
    "": "must be said",
}
_VALUES = "Answer with a frozen pydantic model of this contract, or plain types; service.py makes them from rows."


def check(project: Project) -> Iterator[Finding]:
    """What the contracts of all modules hand out."""
    for module in project.modules.values():
        shapes = read(project, module)
        for shape in shapes.values():
            yield from _shape(project, module, shapes, shape)


def _shape(project: Project, module: Slice, shapes: dict[str, Shape], shape: Shape) -> Iterator[Finding]:
    fields = shape.fields if shape.kind != "enum" else {}
    for name, member in fields.items():
        yield from _member(project, module, shape, f"{shape.name}.{name}", member)
    for method, signature in shape.methods.items():
        for name, member in signature.items():
            what = f"the result of {shape.name}.{method}" if name == "return" else f"{name} of {shape.name}.{method}"
            yield from _member(project, module, shape, what, member)
    if shape.kind == "contract":
        yield from _methods(shape)
    elif shape.kind == "message":
        yield from _message(shape)


def _member(project: Project, module: Slice, shape: Shape, what: str, member: Member) -> Iterator[Finding]:
    path = (member.source or shape.source).path
    if member.kind == "many":
        why = f"{what} takes any number of arguments, which no other process can be told of."
        yield Finding(path, member.line, RULE, why, "Name each argument, or take a list.")
        return
    for name in _names(member.type):
        if reason := _refused(project, module, name):
            shown = name.rpartition(".")[2] or "its type"
            yield Finding(path, member.line, RULE, f"{what} cannot cross a wire: {shown} {reason}.", _VALUES)


def _names(spelled: str) -> Iterator[str]:
    """The types in a type, without the notes of Annotated and the values of Literal."""
    for one in members(spelled) if spelled else [""]:
        try:
            tree = ast.parse(one, mode="eval").body if one else None
        except SyntaxError:
            tree = None
        if isinstance(tree, ast.Subscript):
            base = ast.unparse(tree.value)
            yield base
            parts = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
            if base != "Literal":
                for part in parts[:1] if base == "Annotated" else parts:
                    yield from _names(ast.unparse(part))
        else:
            yield one


def _refused(project: Project, module: Slice, name: str) -> str | None:
    """Why a type may not cross; None if it may."""
    if name in _PLAIN | _CONTAINERS or name.startswith("kernel.fields."):
        return None
    owner = module_of(name)
    if owner is not None:
        if owner in project.modules and part_of(name) == "contract":
            shape = read(project, project.modules[owner]).get(name.rpartition(".")[2])
            return None if shape and shape.kind in {"value", "enum", "message"} else "is no value of a contract"
        return f"is {owner}'s own, of {part_of(name) or 'its package'}"
    origin = next((one for one in sorted(_ORIGINS, key=len, reverse=True) if _is_of(name, one)), None)
    if origin is not None:
        return _ORIGINS[origin]
    if name.startswith(("pydantic.", "pydantic_extra_types.", "annotated_types.", "enum.")):
        return None
    return "is nothing that pydantic is known to turn into JSON and back"


def _is_of(name: str, origin: str) -> bool:
    return name == origin or (bool(origin) and name.startswith(f"{origin}."))


def _methods(shape: Shape) -> Iterator[Finding]:
    for statement in shape.node.body:
        name = str(getattr(statement, "name", "") or last_name(getattr(statement, "target", None)))
        if isinstance(statement, ast.FunctionDef) and not name.startswith("_"):
            why = f"{shape.name}.{name} is not `async def`, and the answer may come from elsewhere."
            instead = "Make it `async def`; a property becomes a method."
            yield Finding(shape.source.path, statement.lineno, RULE, why, instead)
        elif isinstance(statement, ast.AnnAssign | ast.Assign):
            why = f"{shape.name} has an attribute, which nobody can ask of another process."
            yield Finding(shape.source.path, statement.lineno, RULE, why, "Make it a method.")


def _message(shape: Shape) -> Iterator[Finding]:
    path = shape.source.path
    if config_says(shape.node, "frozen") is False:
        why = f"The message {shape.name} can be changed after it was published, and its readers would differ."
        yield Finding(path, shape.node.lineno, RULE, why, "Leave out frozen=False: a Message is frozen.")
    for name, member in shape.fields.items():
        for one in _names(member.type):
            if one in _MUTABLE:
                why = f"{shape.name}.{name} is a {one}, which can be changed although the message is frozen."
                instead = "Use a tuple, a frozenset, or a Mapping."
                yield Finding(path, member.line, RULE, why, instead)
