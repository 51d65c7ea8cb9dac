"""A Python file as it is read, not run: its tree, and what its names stand for."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache


@dataclass(frozen=True)
class Import:
    """One imported name, in full: `from a import b as c` is `a.b`, known here as `c`; `from a import *` is `a.*`."""

    name: str
    line: int
    # What follows `from`; None for a plain `import`.
    source: str | None = None


class Source:
    """One file of the project."""

    def __init__(self, path: str, dotted: str, text: str | bytes) -> None:
        """Bytes are decoded as Python does it. Raises SyntaxError and ValueError (a NUL) for what is no Python."""
        # Below the root, with slashes.
        self.path = path
        # The name under which it is imported: `modules.events.models`, for a package that of its folder.
        self.dotted = dotted
        self.tree = ast.parse(text)

    @property
    def package(self) -> str:
        """What a relative import starts from."""
        return self.dotted if self.path.endswith("/__init__.py") else self.dotted.rpartition(".")[0]

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Everything in the tree, outermost first."""
        return list(ast.walk(self.tree))

    @cached_property
    def imports(self) -> list[Import]:
        """All imports, wherever they stand."""
        return [found for node in self.nodes for found, _, _ in self._imported(node)]

    @cached_property
    def names(self) -> dict[str, str]:
        """What the imported names stand for, in full. A name that is imported twice stands for the last."""
        return {local: full for node in self.nodes for _, local, full in self._imported(node) if local != "*"}

    @cached_property
    def stars(self) -> list[str]:
        """Where names come from that only their own file can tell."""
        return [found.name[:-2] for found in self.imports if found.name.endswith(".*")]

    def named(self, node: ast.AST | None) -> str | None:
        """The dotted name that an expression stands for, imports followed; None where it is no name.

        A name of this file is `modules.events.models.Base`; one that is defined nowhere (a builtin) is itself.
        """
        if isinstance(node, ast.Name):
            if node.id in self.names:
                return self.names[node.id]
            return f"{self.dotted}.{node.id}" if node.id in self.definitions else node.id
        if isinstance(node, ast.Attribute):
            value = self.named(node.value)
            return None if value is None else f"{value}.{node.attr}"
        return None

    @cached_property
    def definitions(self) -> dict[str, ast.stmt]:
        """The classes, functions and names that the file defines at its top, also under `if` and `try`."""
        found: dict[str, ast.stmt] = {}
        for node in _top(self.tree.body):
            match node:
                case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                    found[node.name] = node
                case ast.Assign():
                    found |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
                case ast.AnnAssign(target=ast.Name() as target):
                    found[target.id] = node
        return found

    @cached_property
    def assigned(  # noqa: C901, PLR0912  # one case for each kind of statement
        self,
    ) -> dict[str, list[tuple[ast.expr, bool]]]:
        """What each name of the file is made of, in order, wherever it is assigned; whether it is added to it.

        A default is what its parameter may be, and `self.name` goes by `name`.
        """
        found: dict[str, list[tuple[ast.expr, bool]]] = {}
        for node in self.nodes:
            match node:
                case ast.Assign(targets=targets, value=value):
                    for target in targets:
                        found.setdefault(_own_name(target), []).append((value, False))
                        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                            for one, part in zip(target.elts, value.elts, strict=False):
                                found.setdefault(_own_name(one), []).append((part, False))
                case (
                    ast.AnnAssign(target=target, value=ast.expr() as value) | ast.NamedExpr(target=target, value=value)
                ):
                    found.setdefault(_own_name(target), []).append((value, False))
                case ast.AugAssign(target=target, op=ast.Add(), value=value):
                    found.setdefault(_own_name(target), []).append((value, True))
                case ast.For(target=target, iter=several) | ast.comprehension(target=target, iter=several):
                    for name in {_own_name(one) for one in ast.walk(target)}:
                        found.setdefault(name, []).extend((one, False) for one in self.elements(several))
                case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in self.functions:
                    for parameter, value in _bound(self.functions[name], node):
                        found.setdefault(parameter, []).append((value, False))
                case ast.arguments(
                    posonlyargs=first, args=args, defaults=defaults, kwonlyargs=others, kw_defaults=more
                ):
                    ends = reversed([*first, *args]), reversed(defaults)
                    for each, default in [*zip(*ends, strict=False), *zip(others, more, strict=True)]:
                        if default is not None:
                            found.setdefault(each.arg, []).append((default, False))
        found.pop("", None)
        return found

    @cached_property
    def functions(self) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
        """The functions and methods of the file by their names, wherever they stand."""
        return {one.name: one for one in self.nodes if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}

    def container(self, node: ast.expr) -> ast.expr:
        """What a name of this file stands for, if that is a list, tuple, set or dictionary that is written out."""
        if not isinstance(node, ast.Name):
            return node
        value: ast.expr = getattr(self.definitions.get(node.id), "value", None) or node
        return value if value is not node else next((v for v, _ in self._containers.get(node.id, ())), node)

    @cached_property
    def _containers(self) -> dict[str, list[tuple[ast.expr, bool]]]:
        found: dict[str, list[tuple[ast.expr, bool]]] = {}
        for node in self.nodes:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.List | ast.Tuple | ast.Set | ast.Dict):
                found.setdefault(_own_name(node.targets[0]), []).append((node.value, False))
        return found

    def elements(self, node: ast.expr) -> list[ast.expr]:
        """The elements of a container that is written out, here or where its name is defined in this file.

        Of a dictionary the values; also through `enumerate`, `sorted`, `items()` and a comprehension.
        """
        match self.container(node):
            case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
                return elements
            case ast.Dict(values=values):
                return values
            case ast.Call(func=ast.Attribute(value=value, attr="values" | "items")):
                return self.elements(value)
            case ast.Call(func=ast.Name(id=name), args=[*_, several]) if name in _PASSING:
                return self.elements(several)
            case (
                ast.GeneratorExp(elt=ast.Name(id=name), generators=[one])
                | ast.ListComp(elt=ast.Name(id=name), generators=[one])
            ) if _own_name(one.target) == name:
                return self.elements(one.iter)
        return []

    @cached_property
    def calls(self) -> list[ast.Call]:
        """All calls."""
        return [node for node in self.nodes if isinstance(node, ast.Call)]

    @cached_property
    def classes(self) -> list[ast.ClassDef]:
        """All classes, wherever they stand."""
        return [node for node in self.nodes if isinstance(node, ast.ClassDef)]

    def _imported(self, node: ast.AST) -> Iterator[tuple[Import, str, str]]:
        """What a node imports, each with the name that it makes known here and what that stands for."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                # `import a.b` makes known a, and `import a.b as c` makes known a.b.
                first = alias.name.partition(".")[0]
                yield Import(alias.name, node.lineno), alias.asname or first, alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            source = self._from(node)
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield Import(full, node.lineno, source), alias.asname or alias.name, full

    def _from(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.package.split(".")
        start = ".".join(parts[: len(parts) - node.level + 1])
        return f"{start}.{node.module}" if node.module else start


def _top(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            for block in ("body", "orelse", "finalbody"):
                yield from _top(getattr(node, block, []))
            for handler in getattr(node, "handlers", []):
                yield from _top(handler.body)


@lru_cache(maxsize=4096)
def read(path: str, dotted: str, text: bytes) -> Source:
    """The same `Source` for the same file, with all that is known of it: a project may be judged many times."""
    return Source(path, dotted, text)


_PASSING = frozenset({"enumerate", "sorted", "reversed", "list", "tuple", "set", "iter", "map", "filter"})


def _bound(function: ast.FunctionDef | ast.AsyncFunctionDef, call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    """The parameters of a function with what a call passes for them."""
    names = [one.arg for one in [*function.args.posonlyargs, *function.args.args]]
    is_method = names[:1] in (["self"], ["cls"]) and isinstance(call.func, ast.Attribute)
    yield from zip(names[is_method:], (one for one in call.args if not isinstance(one, ast.Starred)), strict=False)
    known = {*names, *(one.arg for one in function.args.kwonlyargs)}
    yield from ((one.arg, one.value) for one in call.keywords if one.arg in known)


def _own_name(target: ast.AST) -> str:
    return last_name(target) if isinstance(target, ast.Name) or is_own(target) else ""


def is_own(node: ast.AST) -> bool:
    """Whether an expression is `self.name` or `cls.name`."""
    return isinstance(node, ast.Attribute) and getattr(node.value, "id", "") in {"self", "cls"}


def constant(node: ast.AST | None) -> str | None:
    """The text of a string literal; None for anything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def argument(call: ast.Call, name: str, place: int | None = None) -> ast.expr | None:
    """An argument of a call by its name, or by its place among the positional ones."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    positional = [arg for arg in call.args if not isinstance(arg, ast.Starred)]
    return positional[place] if place is not None and place < len(positional) == len(call.args) else None


def class_value(node: ast.ClassDef, name: str) -> ast.expr | None:
    """What a class assigns to one of its names."""
    for one in node.body:
        if isinstance(one, ast.Assign) and any(getattr(target, "id", None) == name for target in one.targets):
            return one.value
        if isinstance(one, ast.AnnAssign) and getattr(one.target, "id", None) == name:
            return one.value
    return None


def last_name(node: ast.AST | None) -> str:
    """The last part of a name: `table` of `sa.table`; empty for what is no name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def line_of(node: ast.AST) -> int:
    """The line on which a node begins."""
    return int(getattr(node, "lineno", 0))
