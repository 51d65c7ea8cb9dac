"""The rule values-only: what a contract hands out must fit into a message between two processes."""

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
_VALUES = "Answer with a frozen pydantic model of this contract, or plain types; service.py makes them from rows."
_READABLE = "Write it out: the rule reads contracts without running them."

Shapes = Mapping[str, Shape]


def check(project: Project) -> Iterator[Finding]:
    """What the contracts of all modules hand out, and contracts where nobody looks for them."""
    shapes = read_all(project)
    for name, shape in shapes.items():
        yield from _Reader(project, shapes, shape, name.rpartition(".")[2]).findings()
    for module, source in project.of_modules():
        yield from unreadable(project, module, source)


class _Reader:
    """Reads one class of a contract."""

    def __init__(self, project: Project, shapes: Shapes, shape: Shape, name: str) -> None:
        self.project, self.shapes, self.shape, self.name = project, shapes, shape, name

    def findings(self) -> Iterator[Finding]:
        """All that is wrong with it."""
        if self.shape.kind != "enum":
            for name, member in self.shape.fields.items():
                yield from self._member(f"{self.name}.{name}", member)
        for name, method in self.shape.methods.items():
            yield from self._method(name, method)
        if self.shape.kind != "other":
            for base in self.shape.unknown:
                why = f"{self.name} inherits from {base}, which brings in what this rule cannot read."
                yield self._at(self.shape.line, why, "Derive it from classes of this project.")
            for ancestor in self.shape.lineage:
                yield from self._body(ancestor)
        if self.shape.kind == "message":
            yield from self._message()
        if self.shape.kind == "error" and not self._reaches_others():
            why = f"{self.name} is an error that only reaches who asks in the same process."
            yield self._at(self.shape.line, why, "Derive it from kernel.ContractError, its fields as annotations.")

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
                instead = "Use a constant; or None, and decide in service.py."
                yield Finding(member.path, member.default.lineno, RULE, why, instead)

    def _default(self, node: ast.expr) -> str | None:
        """What is wrong with a default; None where both sides can read it, and nobody can change it."""
        match node:
            case ast.Constant() | ast.UnaryOp(operand=ast.Constant()) | ast.Name() | ast.Attribute():
                return None
            case ast.Tuple(elts=elements):
                return next((wrong for one in elements if (wrong := self._default(one))), None)
            case ast.BinOp(left=left, right=right):  # 60 * 60
                return self._default(left) or self._default(right)
            case ast.List() | ast.Dict() | ast.Set():
                return "is one object for all calls, and can be changed"
            case ast.Call(args=args, keywords=keywords):
                source = self.shape.lineage[0].source
                dotted = source.named(node.func) or ""
                value = self.shapes.get(f"{module_of(dotted)}.{dotted.rpartition('.')[2]}")
                if is_wire_type(dotted) or dotted in {"frozenset", "tuple"} or (value and value.kind in VALUES):
                    inner = [*args, *(one.value for one in keywords)]
                    return next((wrong for one in inner if (wrong := self._default(one))), None)
        return "is computed, in each process for itself"

    def _member(self, what: str, member: Member) -> Iterator[Finding]:
        if member.kind == "many":
            why = f"{what} takes any number of arguments, which no other process can be told of."
            yield Finding(member.path, member.line, RULE, why, "Name each argument, or take a list.")
            return
        for reason in self._refused(member.type):
            yield Finding(member.path, member.line, RULE, f"{what} cannot cross a wire: {reason}.", _VALUES)

    def _refused(self, spelled: str) -> Iterator[str]:
        """Why a type cannot cross, each reason a clause."""
        if not spelled:
            yield "its type must be said"
            return
        parts = [parts_of(tree_of(one)) for one in members(spelled)]
        for base, args in parts:
            yield from self._refused_one(base, args)
        arrays = [base.rpartition(".")[2] for base, _ in parts if base in _ARRAYS]
        if len(arrays) > 1:
            yield f"{' and '.join(arrays)} are one and the same in JSON"

    def _refused_one(self, base: str, args: list[ast.expr]) -> Iterator[str]:
        """The same of one member of a union."""
        if (base == "Literal" and args) or (base == "bytes" and self._writes_base64()):
            return
        if wrong := self._why_not(base, is_said=bool(args)):
            yield f"{base.rpartition('.')[2]} {wrong}"
        else:
            for one in args:
                if ast.unparse(one) not in {"...", "()"}:
                    yield from self._refused(ast.unparse(one))
            if base in _MAPPINGS:
                yield from self._keys(ast.unparse(args[0]))

    def _keys(self, spelled: str) -> Iterator[str]:
        """Keys are text in JSON: not all that may be a value can be read back from it."""
        for one in members(spelled):
            base, _ = parts_of(tree_of(one))
            shape = self._class(base)
            if (
                base not in KEYS and not base.startswith("pydantic.") and not (shape and _has_text(shape))
                and base not in self.shape.variables
            ):  # fmt: skip
                yield f"{base.rpartition('.')[2]} is a key, which is text in JSON and cannot be read back"

    def _why_not(self, name: str, *, is_said: bool) -> str | None:
        if name in self.shape.variables:
            return None
        owner = module_of(name)
        if owner is None:
            return why_not(name, is_said=is_said)
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
                return "is a type variable, and stands for anything"
            return "is no value of a contract"
        return "does not say of what it is" if shape.variables and not is_said else None

    def _class(self, name: str) -> Shape | None:
        return self.shapes.get(f"{module_of(name)}.{name.rpartition('.')[2]}") if part_of(name) == "contract" else None

    def _writes_base64(self) -> bool:
        return all(self.shape.options.get(one) == "'base64'" for one in ("ser_json_bytes", "val_json_bytes"))

    def _body(self, ancestor: Ancestor) -> Iterator[Finding]:
        """What no annotation shows: how methods are defined, attributes, and what is decided at run time."""
        path, is_contract = ancestor.source.path, self.shape.kind == "contract"
        for statement in ancestor.node.body:
            name, line = str(getattr(statement, "name", "")), statement.lineno
            if isinstance(statement, ast.If | ast.Try | ast.For | ast.While | ast.With | ast.Match):
                why = f"What {self.name} has is decided at run time, so it cannot be read."
                yield Finding(path, line, RULE, why, _READABLE)
            elif not is_contract or name.startswith("_"):
                continue
            elif isinstance(statement, ast.FunctionDef):
                why = f"{self.name}.{name} is not `async def`, and the answer may come from elsewhere."
                yield Finding(path, line, RULE, why, "Make it `async def`; a property becomes a method.")
            elif isinstance(statement, ast.AnnAssign | ast.Assign) and not _is_constant(ancestor, statement):
                why = f"{self.name} has an attribute, which nobody can ask of another process."
                yield Finding(path, line, RULE, why, "Make it a method.")
            elif isinstance(statement, ast.AsyncFunctionDef):
                for one in statement.decorator_list:
                    if ancestor.source.named(one) not in _DECORATORS:
                        why = f"{self.name}.{name} is wrapped in @{ast.unparse(one)}, and a proxy knows nothing of it."
                        yield Finding(path, line, RULE, why, "Wrap the implementation in service.py instead.")

    def _message(self) -> Iterator[Finding]:
        for ancestor in self.shape.lineage:
            line = ancestor.node.lineno
            said = dict(options(ancestor.node))
            if getattr(said.get("frozen"), "value", None) is False:
                why = f"The message {self.name} can be changed after it was published, and its readers would differ."
                instead = "Leave out frozen=False: a Message is frozen."
                yield Finding(ancestor.source.path, line, RULE, why, instead)
            elif None in said:
                why = f"The options of the message {self.name} are computed, so nobody can say that it is frozen."
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
        """What of a field can be changed although the message that holds it is frozen."""
        for name in sorted(
            {ast.unparse(each) for each in ast.walk(tree_of(member.type)) if isinstance(each, ast.expr)}
        ):
            if name in _MUTABLE:
                why = f"{what} is a {name}, which can be changed although the message {self.name} is frozen."
                yield Finding(member.path, member.line, RULE, why, "Use a tuple, a frozenset, or a Mapping.")
            elif (shape := self._class(name)) and not _is_frozen(shape):
                short = name.rpartition(".")[2]
                why = f"{what} is a {short}, which can be changed although the message {self.name} is frozen."
                yield Finding(member.path, member.line, RULE, why, f"Freeze it: class {short}(BaseModel, frozen=True).")

    def _at(self, line: int, why: str, instead: str) -> Finding:
        return Finding(self.shape.path, line, RULE, why, instead)


def _is_constant(ancestor: Ancestor, statement: ast.AnnAssign | ast.Assign) -> bool:
    """Whether it is a Final or ClassVar, which both sides have with the class."""
    annotation = getattr(statement, "annotation", None)
    name = ancestor.source.named(annotation.value if isinstance(annotation, ast.Subscript) else annotation) or ""
    return statement.value is not None and name.rpartition(".")[2] in {"Final", "ClassVar"}


def _has_text(shape: Shape) -> bool:
    """Whether a class is an enum of texts: a number that became a key is not found again."""
    return shape.kind == "enum" and all(one.type[:1] in "'\"" for one in shape.fields.values())


def _is_frozen(shape: Shape) -> bool:
    if shape.kind == "dataclass":
        nodes = [call for one in shape.lineage for call in one.node.decorator_list if isinstance(call, ast.Call)]
        return any(
            each.arg == "frozen" and getattr(each.value, "value", 0) is True for one in nodes for each in one.keywords
        )
    return shape.kind in {"message", "tuple", "enum", "error", "other"} or shape.options.get("frozen") == "True"
