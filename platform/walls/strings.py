"""What strings an expression may be: literals, and what is put together from them, without running anything."""

import ast
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice, product

from walls.project import Project
from walls.sources import Source, class_value, constant

# Stands for what is known only when the program runs. It reads as an identifier in SQL.
UNKNOWN = "unknown_"
# How many possibilities of one expression are looked at.
_MOST = 32


class Strings:
    """The strings of one file, and of what it imports from the project."""

    def __init__(self, project: Project, source: Source, followed: frozenset[tuple[str, str]] = frozenset()) -> None:
        """`followed` are the names, with their files, that led here: they may go in circles."""
        self._project = project
        self._source = source
        self._followed = followed

    def of(self, node: ast.AST | None) -> list[str]:
        """What a string expression may be, as far as the text tells; what it does not tell reads UNKNOWN.

        Empty for an expression in which no literal has a part.
        """
        return [] if node is None else list(dict.fromkeys(self._of(node)))[:_MOST]

    def _of(self, node: ast.AST) -> Iterator[str]:  # noqa: C901, PLR0912  # one case for each kind of expression
        match node:
            case ast.Constant(value=str(value)):
                yield value
            case ast.JoinedStr(values=values):
                yield from self._joined([self._known(one) for one in values])
            case ast.FormattedValue(value=value):
                yield from self._of(value)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                if (first := self.of(left)) or self.of(right):
                    yield from self._joined([first or [UNKNOWN], self._known(right)])
            case ast.BinOp(left=left, op=ast.Mod(), right=ast.Dict() as right):
                for template in self.of(left):
                    for key, value in zip(right.keys, right.values, strict=True):
                        template = template.replace(f"%({constant(key)})s", self._known(value)[0])  # noqa: PLW2901
                    yield template
            case ast.BinOp(left=left, op=ast.Mod(), right=right):
                values = right.elts if isinstance(right, ast.Tuple) else [right]
                for template in self.of(left):
                    yield from self._filled(template, [self._known(one) for one in values])
            case ast.IfExp(body=body, orelse=other):
                yield from self._of(body)
                yield from self._of(other)
            case ast.BoolOp(values=values):
                for value in values:
                    yield from self._of(value)
            case ast.NamedExpr(value=value):
                yield from self._of(value)
            case ast.Call(func=ast.Attribute(value=value, attr="format")):
                for template in self.of(value):
                    yield from self._formatted(template, node)
            case ast.Call(func=ast.Attribute(value=value, attr="join"), args=[ast.List() | ast.Tuple() as parts]):
                for glue in self.of(value):
                    between = [item for part in parts.elts for item in ([glue], self._known(part))][1:]
                    yield from self._joined(between)
            case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in _SHAPING:
                yield from (_SHAPING[name](text) for text in self.of(value))
            case ast.Call(func=ast.Attribute(value=value, attr="replace"), args=[old, new]):
                for text, before, after in product(self.of(value), self._known(old), self._known(new)):
                    yield text.replace(before, after)
            case ast.Call(func=func, args=[first, *_]) if self._source.named(func) in _DEDENTING:
                yield from self._of(first)
            case ast.Name(id=name):
                yield from self._variable(name)
            case ast.Attribute():
                yield from self._elsewhere(self._source.named(node))

    def _following(self, source: Source, name: str) -> "Strings":
        return Strings(self._project, source, self._followed | {(source.path, name)})

    def _known(self, node: ast.AST) -> list[str]:
        return self.of(node) or [UNKNOWN]

    def _joined(self, parts: list[list[str]]) -> Iterator[str]:
        yield from ("".join(choice) for choice in islice(product(*parts), _MOST))

    def _filled(self, template: str, values: list[list[str]]) -> Iterator[str]:
        pieces = re.split(r"%(?:\(\w+\))?[-#0 +]*[\d.*]*[sdrif]", template)
        values += [[UNKNOWN]] * (len(pieces) - 1 - len(values))
        parts = [[pieces[0]]]
        for piece, value in zip(pieces[1:], values, strict=False):
            parts += [value, [piece]]
        yield from self._joined(parts)

    def _formatted(self, template: str, call: ast.Call) -> Iterator[str]:
        named = {keyword.arg: self._known(keyword.value)[0] for keyword in call.keywords if keyword.arg}
        placed = [self._known(arg)[0] for arg in call.args]
        count = iter(range(100))

        def fill(match: re.Match[str]) -> str:
            key = match[1] or str(next(count))
            return placed[int(key)] if key.isdigit() and int(key) < len(placed) else named.get(key, UNKNOWN)

        yield re.sub(r"\{(\w*)[^{}]*\}", fill, template)

    def _variable(self, name: str) -> Iterator[str]:
        if name in {"__name__", "__package__"}:
            yield self._source.dotted if name == "__name__" else self._source.package
            return
        if name in self._source.names:
            yield from self._elsewhere(self._source.names[name])
        elif name in self._assigned and (self._source.path, name) not in self._followed:
            values = self._assigned[name]
            deeper = self._following(self._source, name)
            found = [""] if any(is_added for _, is_added in values) else []
            for value, is_added in values:
                options = deeper.of(value)
                if is_added:
                    found = [text + more for text, more in product(found, options or [UNKNOWN])][:_MOST]
                else:
                    found = [*(found if found != [""] else []), *options]
            yield from found

    @cached_property
    def _assigned(self) -> dict[str, list[tuple[ast.expr, bool]]]:
        """What each name of the file is made of, in order, wherever it is assigned; whether it is added to it."""
        found: dict[str, list[tuple[ast.expr, bool]]] = {}
        for node in self._source.nodes:
            match node:
                case ast.Assign(targets=targets, value=value):
                    for target in targets:
                        if isinstance(target, ast.Name):
                            found.setdefault(target.id, []).append((value, False))
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    found.setdefault(name, []).append((value, False))
                case ast.AugAssign(target=ast.Name(id=name), op=ast.Add(), value=value):
                    found.setdefault(name, []).append((value, True))
                case ast.NamedExpr(target=ast.Name(id=name), value=value):
                    found.setdefault(name, []).append((value, False))
                case ast.For(
                    target=ast.Name(id=name), iter=ast.List(elts=elts) | ast.Tuple(elts=elts) | ast.Set(elts=elts)
                ):
                    found.setdefault(name, []).extend((one, False) for one in elts)
        return found

    def _elsewhere(self, dotted: str | None) -> Iterator[str]:
        """A constant of another file, or of a class."""
        if dotted is None:
            return
        home = self._project.definition(dotted)
        if home is not None:
            source, statement = home
            value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
            name = dotted.rpartition(".")[2]
            if value is not None and (source.path, name) not in self._followed:
                yield from self._following(source, name).of(value)
            return
        owner, _, name = dotted.rpartition(".")
        if (home := self._project.definition(owner)) is not None and isinstance(home[1], ast.ClassDef):
            yield from self._following(home[0], dotted).of(class_value(home[1], name))


_SHAPING: dict[str, Callable[[str], str]] = {
    "strip": str.strip,
    "lower": str.lower,
    "upper": str.upper,
    "lstrip": str.lstrip,
    "rstrip": str.rstrip,
}
_DEDENTING = frozenset({"textwrap.dedent", "inspect.cleandoc", "sqlalchemy.text", "str"})


def documentation(source: Source) -> set[int]:
    """The string literals of a file that only people read, by their identity: docstrings and bare strings."""
    return {id(node.value) for node in source.nodes if isinstance(node, ast.Expr) and constant(node.value) is not None}
