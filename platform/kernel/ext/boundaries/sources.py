"""Read a Python file without running it: its syntax tree, and what its names stand for."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache


@dataclass(frozen=True)
class Import:
    """One imported name, in full: `a.b` for `from a import b as c`; `a.*` for `from a import *`."""

    name: str
    line: int
    # The name after `from`; None for a plain `import`.
    source: str | None = None


class Source:
    """One file of the project."""

    def __init__(self, path: str, dotted: str, text: str | bytes) -> None:
        """Parse a file. Python decodes bytes. Raises SyntaxError, and ValueError for a NUL."""
        # Below the root, with slashes.
        self.path = path
        # The name to import it by: `modules.events.models`; for an __init__.py, the name of its folder.
        self.dotted = dotted
        self.tree = ast.parse(text)

    @property
    def package(self) -> str:
        """The package from which a relative import starts."""
        return self.dotted if self.path.endswith("/__init__.py") else self.dotted.rpartition(".")[0]

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of the tree, outermost first."""
        return list(ast.walk(self.tree))

    @cached_property
    def imports(self) -> list[Import]:
        """All imports, also inside functions."""
        return [found for node in self.nodes for found, _, _ in self._imported(node)]

    @cached_property
    def names(self) -> dict[str, str]:
        """The full name of each imported name. The last import of a name counts."""
        return {local: full for node in self.nodes for _, local, full in self._imported(node) if local != "*"}

    @cached_property
    def stars(self) -> list[str]:
        """The modules of `from module import *`."""
        return [found.name[:-2] for found in self.imports if found.name.endswith(".*")]

    def named(self, node: ast.AST | None) -> str | None:
        """Return the dotted name that an expression stands for, through imports; None if it is not a name.

        A name of this file is `modules.events.models.Base`; an undefined name (a builtin) is itself.
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
        """The classes, functions and names that the file defines at module level, also under `if` and `try`."""
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
        """The values of each name of the file in order, from all assignments; and whether a value is added (`+=`).

        The default of a parameter is a value of it. `self.name` counts as `name`.
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
        """All functions and methods of the file, by name."""
        return {one.name: one for one in self.nodes if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}

    def container(self, node: ast.expr) -> ast.expr:
        """Return the literal container that a name of this file stands for; otherwise the expression."""
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
        """Return the elements of a literal container, given directly or by its name in this file.

        For a dictionary, its values. Follows `enumerate`, `sorted`, `items()` and a comprehension.
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
        """All classes, also inside functions and classes."""
        return [node for node in self.nodes if isinstance(node, ast.ClassDef)]

    def _imported(self, node: ast.AST) -> Iterator[tuple[Import, str, str]]:
        """Return the imports of a node, each with its local name and what that name stands for."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                # `import a.b` binds a; `import a.b as c` binds a.b.
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
    """Return the same `Source` for the same content, because the self-test reads a project many times."""
    return Source(path, dotted, text)


_PASSING = frozenset({"enumerate", "sorted", "reversed", "list", "tuple", "set", "iter", "map", "filter"})


def _bound(function: ast.FunctionDef | ast.AsyncFunctionDef, call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    """Return the parameters of a function with the arguments of a call."""
    names = [one.arg for one in [*function.args.posonlyargs, *function.args.args]]
    is_method = names[:1] in (["self"], ["cls"]) and isinstance(call.func, ast.Attribute)
    yield from zip(names[is_method:], (one for one in call.args if not isinstance(one, ast.Starred)), strict=False)
    known = {*names, *(one.arg for one in function.args.kwonlyargs)}
    yield from ((one.arg, one.value) for one in call.keywords if one.arg in known)


def _own_name(target: ast.AST) -> str:
    return last_name(target) if isinstance(target, ast.Name) or is_own(target) else ""


def is_own(node: ast.AST) -> bool:
    """Return whether an expression is `self.name` or `cls.name`."""
    return isinstance(node, ast.Attribute) and getattr(node.value, "id", "") in {"self", "cls"}


def constant(node: ast.AST | None) -> str | None:
    """Return the text of a string literal; None for anything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def argument(call: ast.Call, name: str, place: int | None = None) -> ast.expr | None:
    """Return an argument of a call by its name, or by its position."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    positional = [arg for arg in call.args if not isinstance(arg, ast.Starred)]
    return positional[place] if place is not None and place < len(positional) == len(call.args) else None


def class_value(node: ast.ClassDef, name: str) -> ast.expr | None:
    """Return the value that a class assigns to a name."""
    for one in node.body:
        if isinstance(one, ast.Assign) and any(getattr(target, "id", None) == name for target in one.targets):
            return one.value
        if isinstance(one, ast.AnnAssign) and getattr(one.target, "id", None) == name:
            return one.value
    return None


def last_name(node: ast.AST | None) -> str:
    """Return the last part of a name: `table` of `sa.table`; "" for anything else."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def line_of(node: ast.AST) -> int:
    """Return the first line of a node."""
    return int(getattr(node, "lineno", 0))
