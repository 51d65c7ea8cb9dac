"""The rule values-only: the values of a contract must fit into a message between two processes."""

import ast
from collections.abc import Iterator, Mapping

from kernel.ext.boundaries.annotations import classes_in, followed, members, parts_of, tree_of
from kernel.ext.boundaries.contracts import options, read_all
from kernel.ext.boundaries.findings import Finding
from kernel.ext.boundaries.misplaced import RULE, unreadable
from kernel.ext.boundaries.project import Project, module_of, part_of
from kernel.ext.boundaries.shapes import VALUES, Ancestor, Member, Method, Shape
from kernel.ext.boundaries.sources import last_name
from kernel.ext.boundaries.wire import KEYS, is_wire_type, why_not

_DECORATORS = frozenset({"kernel.safe", "kernel.modules.contracts.safe", "abc.abstractmethod", "typing.override"})
_DECLARED = frozenset({"kernel.ContractError", "kernel.modules.contracts.ContractError"})
_MUTABLE = frozenset({"list", "dict", "set"})
_ARRAYS = frozenset({"list", "tuple", "set", "frozenset", "collections.abc.Sequence", "collections.abc.Set"})
_MAPPINGS = frozenset({"dict", "collections.abc.Mapping"})
_VALUES = "Use a frozen pydantic model of this contract, or plain types; service.py makes them from rows."
_READABLE = "Write it as literal code: the rule reads contracts without running them."

Shapes = Mapping[str, Shape]


def check(project: Project) -> Iterator[Finding]:
    """Check the contracts of all modules, and find contracts that the other rules cannot read."""
    shapes = read_all(project)
    for name, shape in shapes.items():
        yield from _Reader(project, shapes, shape, name.rpartition(".")[2]).findings()
    for module, source in project.of_modules():
        yield from unreadable(project, module, source)


class _Reader:
    """Checks one class of a contract."""

    def __init__(self, project: Project, shapes: Shapes, shape: Shape, name: str) -> None:
        self.project, self.shapes, self.shape, self.name = project, shapes, shape, name

    def findings(self) -> Iterator[Finding]:
        """Return everything that is wrong with the class."""
        if self.shape.kind != "enum":
            for name, member in self.shape.fields.items():
                yield from self._member(f"{self.name}.{name}", member)
        for name, method in self.shape.methods.items():
            yield from self._method(name, method)
        if self.shape.kind != "other":
            for base in self.shape.unknown:
                why = f"{self.name} inherits from {base}, whose members this rule cannot read."
                yield self._at(self.shape.line, why, "Derive it from classes of this project.")
            for ancestor in self.shape.lineage:
                yield from self._body(ancestor)
        if self.shape.kind == "message":
            yield from self._message()
        if self.shape.kind == "error" and not self._reaches_others():
            why = f"{self.name} is an error that another process cannot raise."
            yield self._at(self.shape.line, why, "Derive it from kernel.ContractError, with annotated fields.")

    def _reaches_others(self) -> bool:
        bases = ((one.source, base) for one in self.shape.lineage for base in one.node.bases)
        return any(followed(self.project, source, base) in _DECLARED for source, base in bases)

    def _method(self, name: str, method: Method) -> Iterator[Finding]:
        yield from self._member(f"the result of {self.name}.{name}", method.result)
        for parameter, member in method.parameters.items():
            what = f"{parameter} of {self.name}.{name}"
            yield from self._member(what, member)
            if member.default is not None and (wrong := self._default(member.default)):
                why = f"The default of {what} {wrong}."
                instead = "Use a constant, or use None and decide in service.py."
                yield Finding(member.path, member.default.lineno, RULE, why, instead)

    def _default(self, node: ast.expr) -> str | None:
        """Return what is wrong with a default; None if both sides can read it and it is immutable."""
        match node:
            case ast.Constant() | ast.UnaryOp(operand=ast.Constant()) | ast.Name() | ast.Attribute():
                return None
            case ast.Tuple(elts=elements):
                return next((wrong for one in elements if (wrong := self._default(one))), None)
            case ast.BinOp(left=left, right=right):  # 60 * 60
                return self._default(left) or self._default(right)
            case ast.List() | ast.Dict() | ast.Set():
                return "is a mutable object that all calls share"
            case ast.Call(args=args, keywords=keywords):
                source = self.shape.lineage[0].source
                dotted = source.named(node.func) or ""
                value = self.shapes.get(f"{module_of(dotted)}.{dotted.rpartition('.')[2]}")
                if is_wire_type(dotted) or dotted in {"frozenset", "tuple"} or (value and value.kind in VALUES):
                    inner = [*args, *(one.value for one in keywords)]
                    return next((wrong for one in inner if (wrong := self._default(one))), None)
        return "is computed, in each process separately"

    def _member(self, what: str, member: Member) -> Iterator[Finding]:
        if member.kind == "many":
            why = f"{what} takes any number of arguments, which cannot be sent to another process."
            yield Finding(member.path, member.line, RULE, why, "Name each argument, or take a list.")
            return
        for reason in self._refused(member.type):
            yield Finding(
                member.path, member.line, RULE, f"{what} cannot be sent to another process: {reason}.", _VALUES
            )

    def _refused(self, spelled: str) -> Iterator[str]:
        """Return the reasons why a type cannot be sent, each as a clause."""
        if not spelled:
            yield "it has no type"
            return
        parts = [parts_of(tree_of(one)) for one in members(spelled)]
        for base, args in parts:
            yield from self._refused_one(base, args)
        arrays = [base.rpartition(".")[2] for base, _ in parts if base in _ARRAYS]
        if len(arrays) > 1:
            yield f"{' and '.join(arrays)} are the same in JSON"

    def _refused_one(self, base: str, args: list[ast.expr]) -> Iterator[str]:
        """Return the reasons for one member of a union."""
        if (base == "Literal" and args) or (base == "bytes" and self._writes_base64()):
            return
        if wrong := self._why_not(base, has_arguments=bool(args)):
            yield f"{base.rpartition('.')[2]} {wrong}"
        else:
            for one in args:
                if ast.unparse(one) not in {"...", "()"}:
                    yield from self._refused(ast.unparse(one))
            if base in _MAPPINGS:
                yield from self._keys(ast.unparse(args[0]))

    def _keys(self, spelled: str) -> Iterator[str]:
        """Return the reasons for a type of keys, which are texts in JSON and must be read back from them."""
        for one in members(spelled):
            base, _ = parts_of(tree_of(one))
            shape = self._class(base)
            if (
                base not in KEYS and not base.startswith("pydantic.") and not (shape and _has_text(shape))
                and base not in self.shape.variables
            ):  # fmt: skip
                yield f"{base.rpartition('.')[2]} is a type of keys, which are texts in JSON and cannot be read back"

    def _why_not(self, name: str, *, has_arguments: bool) -> str | None:
        if name in self.shape.variables:
            return None
        owner = module_of(name)
        if owner is None:
            return why_not(name, has_arguments=has_arguments)
        if part_of(name) != "contract":
            return f"is {owner}'s own, of {part_of(name) or 'its package'}"
        shape = self._class(name)
        if shape is None or shape.kind not in VALUES:
            home = self.project.definition(name)
            if (
                shape is None
                and home
                and last_name(getattr(getattr(home[1], "value", None), "func", None)) == "TypeVar"
            ):
                return "is a type variable, which allows any type"
            return "is not a value of a contract"
        return "does not name its element type" if shape.variables and not has_arguments else None

    def _class(self, name: str) -> Shape | None:
        return self.shapes.get(f"{module_of(name)}.{name.rpartition('.')[2]}") if part_of(name) == "contract" else None

    def _writes_base64(self) -> bool:
        return all(self.shape.options.get(one) == "'base64'" for one in ("ser_json_bytes", "val_json_bytes"))

    def _body(self, ancestor: Ancestor) -> Iterator[Finding]:
        """Check what annotations do not show: kinds of methods, attributes, and definitions at run time."""
        path, is_contract = ancestor.source.path, self.shape.kind == "contract"
        for statement in ancestor.node.body:
            name, line = str(getattr(statement, "name", "")), statement.lineno
            if isinstance(statement, ast.If | ast.Try | ast.For | ast.While | ast.With | ast.Match):
                why = f"The members of {self.name} are decided at run time, so they cannot be read."
                yield Finding(path, line, RULE, why, _READABLE)
            elif not is_contract or name.startswith("_"):
                continue
            elif isinstance(statement, ast.FunctionDef):
                why = f"{self.name}.{name} is not `async def`, but the result may come from another process."
                yield Finding(path, line, RULE, why, "Make it `async def`; a property becomes a method.")
            elif isinstance(statement, ast.AnnAssign | ast.Assign) and not _is_constant(ancestor, statement):
                why = f"{self.name} has an attribute, which another process cannot read."
                yield Finding(path, line, RULE, why, "Make it a method.")
            elif isinstance(statement, ast.AsyncFunctionDef):
                for one in statement.decorator_list:
                    if ancestor.source.named(one) not in _DECORATORS:
                        why = f"{self.name}.{name} has the decorator @{ast.unparse(one)}, which remote calls skip."
                        yield Finding(path, line, RULE, why, "Decorate the implementation in service.py instead.")

    def _message(self) -> Iterator[Finding]:
        for ancestor in self.shape.lineage:
            line = ancestor.node.lineno
            said = dict(options(ancestor.node))
            if getattr(said.get("frozen"), "value", None) is False:
                why = f"The message {self.name} is mutable, so its readers could see different content."
                instead = "Remove frozen=False: a Message is frozen."
                yield Finding(ancestor.source.path, line, RULE, why, instead)
            elif None in said:
                why = f"The options of the message {self.name} are computed, so it is unknown whether it is frozen."
                yield Finding(ancestor.source.path, line, RULE, why, _READABLE)
        waiting, seen = [(self.name, self.shape)], set[str]()
        while waiting:
            name, shape = waiting.pop()
            for field, member in shape.fields.items():
                yield from self._mutable(f"{name}.{field}", member)
                for one in classes_in(member.type):
                    if one in self.shapes and one not in seen:
                        seen.add(one)
                        waiting.append((one.rpartition(".")[2], self.shapes[one]))

    def _mutable(self, what: str, member: Member) -> Iterator[Finding]:
        """Find mutable parts of a field of a frozen message."""
        for name in sorted(
            {ast.unparse(each) for each in ast.walk(tree_of(member.type)) if isinstance(each, ast.expr)}
        ):
            if name in _MUTABLE:
                why = f"{what} is a {name}, which is mutable although the message {self.name} is frozen."
                yield Finding(member.path, member.line, RULE, why, "Use a tuple, a frozenset, or a Mapping.")
            elif (shape := self._class(name)) and not _is_frozen(shape):
                short = name.rpartition(".")[2]
                why = f"{what} is a {short}, which is mutable although the message {self.name} is frozen."
                yield Finding(member.path, member.line, RULE, why, f"Freeze it: class {short}(BaseModel, frozen=True).")

    def _at(self, line: int, why: str, instead: str) -> Finding:
        return Finding(self.shape.path, line, RULE, why, instead)


def _is_constant(ancestor: Ancestor, statement: ast.AnnAssign | ast.Assign) -> bool:
    """Return whether an attribute is Final or ClassVar, which both sides have in the class."""
    annotation = getattr(statement, "annotation", None)
    name = ancestor.source.named(annotation.value if isinstance(annotation, ast.Subscript) else annotation) or ""
    return statement.value is not None and name.rpartition(".")[2] in {"Final", "ClassVar"}


def _has_text(shape: Shape) -> bool:
    """Return whether a class is an enum of texts. Numbers cannot be read back from keys."""
    return shape.kind == "enum" and all(one.type[:1] in "'\"" for one in shape.fields.values())


def _is_frozen(shape: Shape) -> bool:
    if shape.kind == "dataclass":
        nodes = [call for one in shape.lineage for call in one.node.decorator_list if isinstance(call, ast.Call)]
        return any(
            each.arg == "frozen" and getattr(each.value, "value", 0) is True for one in nodes for each in one.keywords
        )
    return shape.kind in {"message", "tuple", "enum", "error", "other"} or shape.options.get("frozen") == "True"
