"""Find the texts that an expression may have, from literals and operations on them, without running it."""

import ast
import re
from collections.abc import Callable, Iterator
from itertools import count, islice, product

from kernel.ext.boundaries.project import Project
from kernel.ext.boundaries.sources import Source, class_value, constant, is_own, last_name

# Stands for a part that is known only at run time. In SQL it is an identifier.
UNKNOWN = "unknown_"
# The number of texts of one expression that are examined, and of characters of each.
_MOST = 32
_LONGEST = 100_000
# Texts for people: arguments of calls with these names or endings, and of these keywords.
_TO_PEOPLE = frozenset(
    {
        "debug", "info", "warning", "warn", "error", "exception", "critical", "log", "print", "echo", "secho", "fail",
        "skip", "gettext", "_",
    }
)  # fmt: skip
_EXCEPTIONS = ("Error", "Exception", "Warning")
_PROSE = frozenset({"description", "summary", "title", "help", "detail", "reason"})


class Strings:
    """The texts of one file, and of the files of the project that it imports."""

    def __init__(self, project: Project, source: Source) -> None:
        self._project = project
        self._source = source

    def of(self, node: ast.AST | None) -> list[str]:
        """Return the texts that an expression may have, with UNKNOWN for parts that are known only at run time.

        The list is empty if no literal is a part of the expression.
        """
        return [] if node is None else list(dict.fromkeys(self._of(node)))[:_MOST]

    def _of(self, node: ast.AST) -> Iterator[str]:  # noqa: C901, PLR0912, PLR0915  # one case for each kind of expression
        match node:
            case ast.Constant(value=str(value)):
                yield value
            case ast.JoinedStr(values=values):
                yield from self._joined([self._known(one) for one in values])
            case ast.FormattedValue(value=value):
                yield from self._of(value)
            case ast.BinOp(op=ast.Add()):
                terms = [self.of(one) for one in _terms(node)]
                if any(terms):
                    yield from self._joined([one or [UNKNOWN] for one in terms])
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
            case (
                ast.Subscript(value=value, slice=key)
                | ast.Call(func=ast.Attribute(value=value, attr="get"), args=[key, *_])
            ):
                yield from (text for one in self._kept(value, key) for text in self._of(one))
            case ast.Call(func=ast.Attribute(value=ast.Constant(value=bytes(encoded)), attr="decode")):
                yield encoded.decode(errors="replace")
            case ast.Call(func=ast.Attribute(value=ast.Name(id="str"), attr="join"), args=[glue, several]):
                yield from self._of(ast.Call(ast.Attribute(glue, "join"), [several], []))
            case ast.Call(func=ast.Attribute(value=value, attr="format_map"), args=[ast.Dict() as values]):
                keywords = [
                    ast.keyword(constant(key), one) for key, one in zip(values.keys, values.values, strict=True)
                ]
                yield from self._of(ast.Call(ast.Attribute(value, "format"), [], keywords))
            case ast.Call(
                func=ast.Attribute(value=ast.Call(func=made, args=[template]), attr="substitute" | "safe_substitute")
            ) if self._source.named(made) == "string.Template":
                yield from (_substituted(text, self._keywords(node)) for text in self.of(template))
            case ast.Call(func=ast.Name(id=name), args=[]) if returned := self._returned(name):
                yield from self._once(f"{name}()", lambda: [text for one in returned for text in self._of(one)])
            case ast.Call(func=ast.Attribute(value=value, attr="format")):
                for template in self.of(value):
                    yield from self._formatted(template, node)
            case ast.Call(func=ast.Attribute(value=value, attr="join"), args=[several]) if (
                parts := self._source.elements(several)
            ):
                for joint in self.of(value):
                    yield from self._joined([item for part in parts for item in ([joint], self._known(part))][1:])
            case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in _SHAPING:
                yield from (_SHAPING[name](text) for text in self.of(value))
            case ast.Call(func=ast.Attribute(value=value, attr="replace"), args=[old, new]):
                for text, before, after in islice(product(self.of(value), self._known(old), self._known(new)), _MOST):
                    yield text.replace(before, after)
            case ast.Call(func=func, args=[first, *_]) if self._source.named(func) in _DEDENTING:
                yield from self._of(first)
            case ast.Name(id=name):
                yield from self._variable(name)
            case ast.Attribute(attr=name) if is_own(node):
                yield from self._assigned(name)
            case ast.Attribute(value=value, attr=attr):
                found = self._elsewhere(self._source.named(node))
                yield from found or (self.of(value) if attr == "value" else [])

    def _kept(self, container: ast.expr, key: ast.expr) -> list[ast.expr]:
        """Return the value of a key in a container; all values if the key is not a literal."""
        container = self._source.container(container)
        place = ast.literal_eval(key) if isinstance(key, ast.Constant | ast.UnaryOp) else None
        if isinstance(container, ast.Dict):
            pairs = zip(container.keys, container.values, strict=True)
            return [value for one, value in pairs if place is None or constant(one) in {place, None}]
        elements = container.elts if isinstance(container, ast.List | ast.Tuple) else []
        return elements[place:][:1] if isinstance(place, int) else elements

    def _returned(self, name: str) -> list[ast.expr]:
        """Return the expressions that a function of this file may return."""
        function = self._source.functions.get(name) or getattr(self._source.definitions.get(name), "value", None)
        if function is None:
            function = next(
                (one for one, _ in self._source.assigned.get(name, ()) if isinstance(one, ast.Lambda)), None
            )
        if isinstance(function, ast.Lambda):
            return [function.body]
        nodes = ast.walk(function) if isinstance(function, ast.FunctionDef) else ()
        return [one.value for one in nodes if isinstance(one, ast.Return) and one.value is not None]

    def _known(self, node: ast.AST) -> list[str]:
        return self.of(node) or [UNKNOWN]

    def _joined(self, parts: list[list[str]]) -> Iterator[str]:
        yield from ("".join(choice)[:_LONGEST] for choice in islice(product(*parts), _MOST))

    def _filled(self, template: str, values: list[list[str]]) -> Iterator[str]:
        pieces = re.split(r"%(?:\(\w+\))?[-#0 +]*[\d.*]*[sdrif]", template)
        values += [[UNKNOWN]] * (len(pieces) - 1 - len(values))
        parts = [[pieces[0]]]
        for piece, value in zip(pieces[1:], values, strict=False):
            parts += [value, [piece]]
        yield from self._joined(parts)

    def _formatted(self, template: str, call: ast.Call) -> Iterator[str]:
        named = self._keywords(call)
        placed = [self._known(arg)[0] for arg in call.args]
        places = count()

        def fill(match: re.Match[str]) -> str:
            key = match[1] or str(next(places))
            return placed[int(key)] if key.isdecimal() and int(key) < len(placed) else named.get(key, UNKNOWN)

        yield re.sub(r"\{(\w*)[^{}]*\}", fill, template)

    def _keywords(self, call: ast.Call) -> dict[str, str]:
        return {keyword.arg: self._known(keyword.value)[0] for keyword in call.keywords if keyword.arg}

    def _variable(self, name: str) -> Iterator[str]:
        if name in {"__name__", "__package__"}:
            yield self._source.dotted if name == "__name__" else self._source.package
            return
        if name in self._source.names:
            yield from self._elsewhere(self._source.names[name])
        else:
            yield from self._assigned(name)

    def _assigned(self, name: str) -> list[str]:
        """Return the texts of a name of this file. They are computed once."""
        return self._once(name, lambda: self._added(self._source.assigned.get(name, [])))

    def _added(self, values: list[tuple[ast.expr, bool]]) -> list[str]:
        found = [""] if any(is_added for _, is_added in values) else []
        for value, is_added in values:
            options = self.of(value)
            if is_added:
                both = islice(product(found, options or [UNKNOWN]), _MOST)
                found = [(text + more)[:_LONGEST] for text, more in both]
            else:
                found = [*(found if found != [""] else []), *options]
        return found

    def _once(self, name: str, make: Callable[[], list[str]]) -> list[str]:
        known, key = self._project.strings, (self._source.path, name)
        if key not in known:
            known[key] = []  # until then, a name that leads back to itself has no text
            known[key] = list(dict.fromkeys(make()))[:_MOST]
        return known[key]

    def _elsewhere(self, dotted: str | None) -> list[str]:
        """Return the texts of a constant in another file, or in a class."""
        owner, _, name = (dotted or "").rpartition(".")
        if home := self._project.definition(f"{owner}.{name}"):
            there = Strings(self._project, home[0])
            return there._assigned(name) if isinstance(home[1], ast.Assign | ast.AnnAssign) else []
        home = self._project.definition(owner)
        if home is None or not isinstance(home[1], ast.ClassDef):
            return []
        there, value = Strings(self._project, home[0]), class_value(home[1], name)
        return there._once(f"{home[1].name}.{name}", lambda: there.of(value))


def _substituted(template: str, values: dict[str, str]) -> str:
    """Return a `string.Template` with its values."""
    return re.sub(r"\$\{?(\w+)\}?", lambda match: values.get(match[1], UNKNOWN), template)


def _terms(node: ast.expr) -> Iterator[ast.expr]:
    """Return the terms of a sum from left to right, without recursion."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if isinstance(one, ast.BinOp) and isinstance(one.op, ast.Add):
            waiting += [one.right, one.left]
        else:
            yield one


_SHAPING: dict[str, Callable[[str], str]] = {
    "strip": str.strip,
    "lower": str.lower,
    "upper": str.upper,
    "lstrip": str.lstrip,
    "rstrip": str.rstrip,
}
_DEDENTING = frozenset({"textwrap.dedent", "inspect.cleandoc", "sqlalchemy.text", "str"})


def documentation(source: Source) -> set[int]:
    """Return the identities of the nodes that are texts for people: docstrings, logs, descriptions and errors."""
    read: list[ast.AST] = []
    for node in source.nodes:
        match node:
            case ast.Expr(value=ast.Constant() as text):
                read.append(text)
            case ast.Call(func=func, args=args) if last_name(func) in _TO_PEOPLE or last_name(func).endswith(
                _EXCEPTIONS
            ):
                read += [*args, *node.keywords]
            case ast.keyword(arg=name, value=value) if name in _PROSE:
                read.append(value)
            case ast.Raise(exc=ast.expr() as why) | ast.Assert(msg=ast.expr() as why):
                read.append(why)
    return {id(each) for one in read for each in ast.walk(one)}
