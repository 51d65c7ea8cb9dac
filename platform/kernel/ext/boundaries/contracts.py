"""Read the contract of a module from its source: methods, messages and values, including inherited members."""

import ast
import builtins
from collections.abc import Iterator

from kernel.ext.boundaries.annotations import followed, parts_of, spell, substituted, tree_of
from kernel.ext.boundaries.project import Project, Slice
from kernel.ext.boundaries.shapes import Ancestor, Kind, Member, Method, ParameterKind, Shape
from kernel.ext.boundaries.sources import Source, argument, class_value, constant, last_name

KINDS: dict[str, Kind] = {
    "kernel.Contract": "contract",
    "kernel.modules.contracts.Contract": "contract",
    "kernel.ContractError": "error",
    "kernel.modules.contracts.ContractError": "error",
    "kernel.ext.messaging.Message": "message",
    "kernel.ext.messaging.message.Message": "message",
    "kernel.ext.fields.RequestBody": "value",
    "kernel.ext.fields.fields.RequestBody": "value",
    "pydantic.BaseModel": "value",
    "pydantic.RootModel": "value",
    "typing.NamedTuple": "tuple",
    "typing.TypedDict": "dict",
    "typing_extensions.TypedDict": "dict",
    **{f"enum.{name}": "enum" for name in ("Enum", "StrEnum", "IntEnum", "Flag", "IntFlag")},
    **{
        name: "error"
        for name, one in vars(builtins).items()
        if isinstance(one, type) and issubclass(one, BaseException)
    },
}
# Base classes that add no fields or methods.
_HARMLESS = frozenset({"typing.Generic", "typing.Protocol", "abc.ABC", "object", "str", "int"})


def read(project: Project, module: Slice) -> dict[str, Shape]:
    """Return the classes of a module's contract by name: those of contract.py, or of all files of contract/."""
    return {
        node.name: _shape(project, source, node)
        for source in module.part("contract")
        for node in source.definitions.values()
        if isinstance(node, ast.ClassDef)
    }


def read_all(project: Project) -> dict[str, Shape]:
    """Return the classes of all contracts, by `module.Name`."""
    return {
        f"{module.name}.{name}": shape
        for module in project.modules.values()
        for name, shape in read(project, module).items()
    }


def _shape(project: Project, source: Source, node: ast.ClassDef) -> Shape:
    shape = Shape("other", variables=list(_variables(project, source, node)))
    shape.lineage = list(_lineage(project, Ancestor(source, node, {}), shape.unknown))
    shape.kind = next((found for one in shape.lineage if (found := _kind(project, one)) != "other"), "other")
    for ancestor in reversed(shape.lineage):
        shape.options |= {key: ast.unparse(value) for key, value in options(ancestor.node) if key}
        for base in ancestor.node.bases:
            if isinstance(base, ast.Subscript) and followed(project, ancestor.source, base) == "pydantic.RootModel":
                spelled = substituted(spell(project, ancestor.source, base.slice), ancestor.given)
                shape.fields["root"] = Member(spelled, path=ancestor.source.path, line=base.lineno)
        for statement in ancestor.node.body:
            _add(project, shape, ancestor, statement)
    return shape


def _lineage(
    project: Project, one: Ancestor, unknown: list[str], seen: tuple[ast.ClassDef, ...] = ()
) -> Iterator[Ancestor]:
    """Return a class and its bases in this project. The names of other bases are added to `unknown`."""
    yield one
    seen += (one.node,)
    for base in one.node.bases:
        dotted = followed(project, one.source, base)
        if dotted in KINDS or dotted in _HARMLESS:
            continue
        home = project.definition(dotted)
        if home is None or not isinstance(home[1], ast.ClassDef) or home[1] in seen:
            unknown.append(dotted)
            continue
        _, args = parts_of(tree_of(spell(project, one.source, base)))
        spelled = [substituted(ast.unparse(each), one.given) for each in args]
        given = dict(zip(_variables(project, home[0], home[1]), spelled, strict=False))
        yield from _lineage(project, Ancestor(home[0], home[1], given), unknown, seen)


def _variables(project: Project, source: Source, node: ast.ClassDef) -> Iterator[str]:
    for base in node.bases:
        if isinstance(base, ast.Subscript) and source.named(base.value) in {"typing.Generic", "typing.Protocol"}:
            for one in base.slice.elts if isinstance(base.slice, ast.Tuple) else [base.slice]:
                yield spell(project, source, one)


def _kind(project: Project, one: Ancestor) -> Kind:
    for base in one.node.bases:
        name = followed(project, one.source, base)
        if name in KINDS:
            return KINDS[name]
    decorated = {last_name(getattr(each, "func", each)) for each in one.node.decorator_list}
    return "dataclass" if "dataclass" in decorated else "other"


def _add(project: Project, shape: Shape, one: Ancestor, statement: ast.stmt) -> None:
    """Add a statement of the class body to the shape."""
    match statement:
        case ast.AsyncFunctionDef(name=name) | ast.FunctionDef(name=name) if shape.kind == "contract":
            if not name.startswith("_"):
                shape.methods[name] = _method(project, one, statement)
        case ast.FunctionDef(name="__init__") if shape.kind == "error":
            shape.fields |= _method(project, one, statement).parameters
        case ast.FunctionDef(name=name, decorator_list=[*decorators]) if any(
            one.source.named(getattr(each, "func", each)) == "pydantic.computed_field" for each in decorators
        ):
            shape.fields[name] = _member(project, one, statement.returns, statement)
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if shape.kind == "enum" and not name.startswith("_"):
            shape.fields[name] = Member(_on_the_wire(shape, one, name, value), line=statement.lineno)
        case ast.AnnAssign(target=ast.Name(id=name)) if (
            shape.kind != "contract" and not name.startswith("_") and name != "model_config"
        ):
            _add_field(project, shape, one, statement, name)


def _add_field(project: Project, shape: Shape, one: Ancestor, statement: ast.AnnAssign, name: str) -> None:
    given = statement.value
    if isinstance(given, ast.Call) and last_name(given.func) != "PrivateAttr":
        called = (one.source.named(given.func) or "").rpartition(".")[2]
        if called in {"Field", "field"}:
            given = _default(given, 0 if called == "Field" else None)
    member = _member(project, one, statement.annotation, statement)
    base, args = parts_of(tree_of(member.type))
    if base.rpartition(".")[2] == "ClassVar" or (base.rpartition(".")[2] == "Final" and given is not None):
        return  # a class attribute, for pydantic as well
    if base.rpartition(".")[2] == "Final" and args:
        member.type = ast.unparse(args[0])
    if base.rpartition(".")[2] in {"Required", "NotRequired"}:
        member.type = ast.unparse(args[0])
    shape.fields[name] = member


def _default(call: ast.Call, place: int | None = None) -> ast.expr | None:
    value = argument(call, "default", place) or argument(call, "default_factory")
    return None if isinstance(value, ast.Constant) and value.value is ... else value


def _on_the_wire(shape: Shape, one: Ancestor, name: str, value: ast.expr) -> str:
    """Return the value of an enum member in JSON. `auto()` counts; in a StrEnum it is the name."""
    if not (isinstance(value, ast.Call) and last_name(value.func) == "auto"):
        return ast.unparse(value)
    if any(one.source.named(base) == "enum.StrEnum" for base in one.node.bases):
        return repr(name.lower())
    return f"auto({len(shape.fields) + 1})"


def _method(project: Project, one: Ancestor, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Method:
    """Return a method without its `self`."""
    first = len(node.args.posonlyargs)
    positional = [*node.args.posonlyargs, *node.args.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(node.args.defaults)) + [*node.args.defaults]
    parameters: dict[str, Member] = {}

    def add(argument: ast.arg, default: ast.expr | None, kind: ParameterKind) -> None:
        member = _member(project, one, argument.annotation, argument)
        member.kind, member.default = kind, default
        parameters[argument.arg] = member

    for place, (each, default) in enumerate(zip(positional, defaults, strict=True)):
        if place:
            add(each, default, "place" if place < first else "positional")
    if node.args.vararg:
        add(node.args.vararg, None, "many")
    for each, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        add(each, value, "keyword")
    if node.args.kwarg:
        add(node.args.kwarg, None, "many")
    return Method(parameters, _member(project, one, node.returns, node))


def _member(project: Project, one: Ancestor, annotation: ast.expr | None, node: ast.stmt | ast.arg) -> Member:
    spelled = substituted(spell(project, one.source, annotation), one.given)
    line = annotation.lineno if annotation is not None and not isinstance(annotation, ast.Constant) else node.lineno
    return Member(spelled, path=one.source.path, line=line)


def options(node: ast.ClassDef) -> Iterator[tuple[str | None, ast.expr]]:
    """Return the pydantic options of a class, from `model_config` and class keywords; None for a computed value."""
    config = class_value(node, "model_config")
    if isinstance(config, ast.Call):
        yield from ((one.arg, one.value) for one in config.keywords)
    elif isinstance(config, ast.Dict):
        yield from ((constant(key), value) for key, value in zip(config.keys, config.values, strict=True))
    elif config is not None:
        yield None, config
    yield from ((one.arg, one.value) for one in node.keywords)
