"""A module's contract as it is written: its methods, messages and values, each type spelled in one way."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from walls.project import Project, Slice, part_of
from walls.sources import Source, argument, class_value, constant, last_name

Kind = Literal["contract", "message", "value", "enum", "error", "other"]

_KINDS: dict[str, Kind] = {
    "kernel.Contract": "contract",
    "kernel.contracts.Contract": "contract",
    "kernel.Message": "message",
    "kernel.messaging.Message": "message",
    "pydantic.BaseModel": "value",
    "pydantic.RootModel": "value",
    "typing.NamedTuple": "value",
    "typing.TypedDict": "value",
    "typing_extensions.TypedDict": "value",
    "enum.Enum": "enum",
    "enum.StrEnum": "enum",
    "enum.IntEnum": "enum",
    "Exception": "error",
    "ValueError": "error",
    "LookupError": "error",
    "RuntimeError": "error",
}
# What says how a field is shown, and not what it may be.
_NOT_TYPES = frozenset({"default", "default_factory", "description", "title", "examples", "deprecated", "repr"})
_SPELLINGS = {
    "typing.List": "list",
    "typing.Dict": "dict",
    "typing.Set": "set",
    "typing.FrozenSet": "frozenset",
    "typing.Tuple": "tuple",
    "typing.Sequence": "collections.abc.Sequence",
    "typing.Mapping": "collections.abc.Mapping",
}


@dataclass
class Member:
    """A parameter, a result or a field: its type, and whether it must be given."""

    type: str
    required: bool
    line: int = 0
    source: Source | None = None
    # positional, keyword, or many (*args, **kwargs)
    kind: str = "positional"


@dataclass
class Shape:
    """A class of a contract."""

    kind: Kind
    name: str
    source: Source
    node: ast.ClassDef
    version: int = 1
    # Of values, messages and errors their fields; of an enum its members, without a type.
    fields: dict[str, Member] = field(default_factory=dict)
    # Of a contract: parameters by name, the result as `return`.
    methods: dict[str, dict[str, Member]] = field(default_factory=dict)
    safe: set[str] = field(default_factory=set)


def read(project: Project, module: Slice) -> dict[str, Shape]:
    """The classes of a module's contract by their names: those of contract.py, or of all files of contract/."""
    shapes: dict[str, Shape] = {}
    for source in module.part("contract"):
        for node in source.definitions.values():
            if isinstance(node, ast.ClassDef):
                shapes[node.name] = _shape(project, source, node)
    return shapes


def _shape(project: Project, source: Source, node: ast.ClassDef) -> Shape:
    lineage = list(_lineage(project, source, node))
    kinds = [found for home, one in lineage if (found := _kind(home, one)) != "other"]
    kind: Kind = kinds[0] if kinds else "other"
    shape = Shape(kind, node.name, source, node, _version(node))
    for home, one in reversed(lineage):
        for statement in one.body:
            _add(project, shape, home, statement)
    return shape


def _lineage(project: Project, source: Source, node: ast.ClassDef) -> Iterator[tuple[Source, ast.ClassDef]]:
    """A class and its bases, as far as they are the modules' own."""
    yield source, node
    for base in node.bases:
        dotted = source.named(base.value if isinstance(base, ast.Subscript) else base) or ""
        home = project.definition(dotted) if dotted.startswith("modules.") else None
        if home is not None and isinstance(home[1], ast.ClassDef) and home[1] is not node:
            yield from _lineage(project, home[0], home[1])


def _kind(source: Source, node: ast.ClassDef) -> Kind:
    for base in node.bases:
        name = source.named(base.value if isinstance(base, ast.Subscript) else base) or ""
        if name in _KINDS:
            return _KINDS[name]
        if name.endswith(("Error", "Exception")) and "." not in name:
            return "error"
    decorated = {last_name(getattr(one, "func", one)) for one in node.decorator_list}
    return "value" if "dataclass" in decorated else "other"


def _version(node: ast.ClassDef) -> int:
    for keyword in node.keywords:
        if keyword.arg == "version" and isinstance(keyword.value, ast.Constant) and type(keyword.value.value) is int:
            return keyword.value.value
    return 1


def _add(project: Project, shape: Shape, source: Source, statement: ast.stmt) -> None:
    """Add what a statement of the class's body says to its shape."""
    match statement:
        case ast.AsyncFunctionDef(name=name) | ast.FunctionDef(name=name) if shape.kind == "contract":
            if not name.startswith("_"):
                shape.methods[name] = dict(_signature(project, source, statement))
                if any(
                    source.named(one) in {"kernel.safe", "kernel.contracts.safe"} for one in statement.decorator_list
                ):
                    shape.safe.add(name)
        case ast.FunctionDef(name="__init__") if shape.kind == "error":
            shape.fields |= {key: one for key, one in _signature(project, source, statement) if key != "return"}
        case ast.Assign(targets=[ast.Name(id=name)]) if shape.kind == "enum" and not name.startswith("_"):
            shape.fields[name] = Member("", required=False, line=statement.lineno, source=source)
        case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
            spelled, given = spell(project, source, annotation), value
            if isinstance(value, ast.Call) and last_name(value.func) == "Field":
                limits = [ast.unparse(one) for one in value.keywords if one.arg not in _NOT_TYPES]
                spelled = f"Annotated[{spelled}, Field({', '.join(sorted(limits))})]" if limits else spelled
                given = argument(value, "default", 0) or argument(value, "default_factory")
            required = given is None or (isinstance(given, ast.Constant) and given.value is ...)
            shape.fields[name] = Member(spelled, required, statement.lineno, source)


def _signature(
    project: Project, source: Source, node: ast.FunctionDef | ast.AsyncFunctionDef
) -> Iterator[tuple[str, Member]]:
    """The parameters of a method without `self`, and its result."""
    positional = [*node.args.posonlyargs, *node.args.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(node.args.defaults)) + [*node.args.defaults]
    for one, default in list(zip(positional, defaults, strict=True))[1:]:
        yield one.arg, Member(spell(project, source, one.annotation), default is None, one.lineno, source)
    for one, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        yield one.arg, Member(spell(project, source, one.annotation), value is None, one.lineno, source, "keyword")
    for many in (node.args.vararg, node.args.kwarg):
        if many is not None:
            yield many.arg, Member(spell(project, source, many.annotation), False, many.lineno, source, "many")
    yield "return", Member(spell(project, source, node.returns), True, node.lineno, source)


def spell(  # noqa: PLR0911  # one for each kind of expression
    project: Project, source: Source, node: ast.expr | None, seen: frozenset[str] = frozenset()
) -> str:
    """A type as an expression that is the same however it was written; "" for none.

    Names are in full, but for the classes of contracts; aliases are replaced by what they stand for; unions are sorted.
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
            return _union([spell(project, source, node.left, seen), spell(project, source, node.right, seen)])
        case ast.Subscript():
            return _subscript(project, source, node, seen)
        case ast.Name() | ast.Attribute():
            return _name(project, source, node, seen)
        case ast.List():  # of Callable
            return f"[{', '.join(spell(project, source, one, seen) for one in node.elts)}]"
    return ast.unparse(node)


def _name(project: Project, source: Source, node: ast.expr, seen: frozenset[str]) -> str:
    dotted = source.named(node) or ast.unparse(node)
    home = project.definition(dotted) if dotted.startswith("modules.") and dotted not in seen else None
    if home is None:
        return _SPELLINGS.get(dotted, dotted)
    found, statement = home
    name = dotted.rpartition(".")[2]
    if isinstance(statement, ast.ClassDef):
        # In which file of contract/ a class stands is the module's own business.
        home_name = ".".join(found.dotted.split(".")[:3]) if part_of(found.dotted) == "contract" else found.dotted
        return f"{home_name}.{name}"
    value = getattr(statement, "value", None)
    if isinstance(value, ast.Call) and last_name(value.func) == "NewType":
        value = argument(value, "tp", 1)
    return spell(project, found, value, seen | {dotted}) if value is not None else dotted


def _subscript(project: Project, source: Source, node: ast.Subscript, seen: frozenset[str]) -> str:
    base = spell(project, source, node.value, seen)
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    last = base.rpartition(".")[2]
    if last == "Literal":
        return f"Literal[{', '.join(sorted(ast.unparse(one) for one in parts))}]"
    if last == "Annotated":
        notes = sorted(ast.unparse(one) for one in parts[1:])
        return f"Annotated[{spell(project, source, parts[0], seen)}, {', '.join(notes)}]"
    spelled = [spell(project, source, one, seen) for one in parts]
    if last == "Optional":
        return _union([*spelled, "None"])
    if last == "Union":
        return _union(spelled)
    return f"{base}[{', '.join(spelled)}]"


def _union(parts: list[str]) -> str:
    single = {one for part in parts for one in members(part)}
    return " | ".join(sorted(single, key=lambda one: (one == "None", one)))


def members(spelled: str) -> list[str]:
    """The members of a union, or the type itself."""
    try:
        tree: ast.expr = ast.parse(spelled, mode="eval").body
    except SyntaxError:
        return [spelled]
    found: list[str] = []
    while isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
        found.append(ast.unparse(tree.right))
        tree = tree.left
    return [ast.unparse(tree), *reversed(found)]


def config_says(node: ast.ClassDef, name: str) -> object:
    """What a pydantic class says of an option, in its keywords or its `model_config`; None if nothing."""
    config = class_value(node, "model_config")
    pairs: list[tuple[str | None, ast.expr]] = [(one.arg, one.value) for one in node.keywords]
    if isinstance(config, ast.Call):
        pairs += [(one.arg, one.value) for one in config.keywords]
    elif isinstance(config, ast.Dict):
        pairs += [(constant(key), value) for key, value in zip(config.keys, config.values, strict=True)]
    return next((getattr(value, "value", None) for key, value in pairs if key == name), None)
