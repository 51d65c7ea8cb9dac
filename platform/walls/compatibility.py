"""Whether a changed contract still keeps what it promised, by the direction in which each value goes."""

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from walls.contracts import members

Classes = Mapping[str, Mapping[str, Any]]

# What a type takes beside itself.
_WIDER = {
    "float": {"int"},
    "decimal.Decimal": {"int"},
    "collections.abc.Sequence": {"list", "tuple"},
    "collections.abc.Mapping": {"dict"},
    "collections.abc.Set": {"set", "frozenset"},
    "datetime.date": set(),
}


def breaks(name: str, before: Classes, now: Classes) -> Iterator[str]:
    """What of a contract, message or error breaks those who rely on it; a sentence without its period for each."""
    old, new = before[name], now[name]
    if old["kind"] != new["kind"]:
        yield f"it was a {old['kind']} and is a {new['kind']}"
        return
    seen: set[tuple[str, str]] = set()
    for method, was in old["methods"].items():
        if method not in new["methods"]:
            yield f"the method {method} is gone"
            continue
        yield from _method(method, was, new["methods"][method])
        yield from _order(method, was["parameters"], new["methods"][method]["parameters"])
    if old["fields"]:
        yield from _fields(name, before, now, "out")
    for direction in ("in", "out"):
        for other in _named(old, direction, before):
            yield from _class(other, before, now, direction, seen)


def _method(name: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if was["safe"] and not now["safe"]:
        yield f"{name} is no longer @safe, so it is no longer asked twice"
    if not accepts(was["returns"], now["returns"]):
        yield f"{name} may answer with {now['returns']}, and promised {was['returns']}"
    new = {one["name"]: one for one in now["parameters"]}
    for one in was["parameters"]:
        other = new.get(one["name"])
        if other is None:
            yield f"{name} takes no {one['name']} any more"
        elif not accepts(other["type"], one["type"]):
            yield f"{name} takes {other['type']} for {one['name']}, and took {one['type']}"
        elif other["required"] and not one["required"]:
            yield f"{name} demands {one['name']}, which could be left out"
        elif one["kind"] != other["kind"] and other["kind"] == "keyword":
            yield f"{name} takes {one['name']} by name only"
    old = [one["name"] for one in was["parameters"]]
    for one in now["parameters"]:
        if one["name"] not in old and one["required"]:
            yield f"{name} demands {one['name']}, which is new"


def _order(name: str, was: list[Mapping[str, Any]], now: list[Mapping[str, Any]]) -> Iterator[str]:
    order = [one["name"] for one in now if one["kind"] == "positional"]
    placed = [one["name"] for one in was if one["kind"] == "positional" and one["name"] in order]
    if order[: len(placed)] != placed:
        yield f"{name} takes its arguments in another order"


def _class(name: str, before: Classes, now: Classes, direction: str, seen: set[tuple[str, str]]) -> Iterator[str]:
    """A value, and those in it."""
    if (name, direction) in seen or name not in before:
        return
    seen.add((name, direction))
    if name not in now:
        yield f"{name} is gone"
        return
    yield from _fields(name, before, now, direction)
    for other in _named(before[name], direction, before):
        yield from _class(other, before, now, direction, seen)


def _fields(name: str, before: Classes, now: Classes, direction: str) -> Iterator[str]:
    old, new = before[name]["fields"], now[name]["fields"]
    for field, was in old.items():
        other = new.get(field)
        if other is None:
            yield f"{name}.{field} is gone"
        elif direction == "in" and not accepts(other["type"], was["type"]):
            yield f"{name}.{field} takes {other['type']}, and took {was['type']}"
        elif direction == "out" and not accepts(was["type"], other["type"]):
            yield f"{name}.{field} may be {other['type']}, and was {was['type']}"
        elif other["required"] and not was["required"]:
            yield f"{name}.{field} is demanded, and could be left out"
    for field, other in new.items():
        if field in old:
            continue
        if other["required"]:
            yield f"{name}.{field} is new and demanded"
        elif before[name]["kind"] == "enum" and direction == "out":
            yield f"{name}.{field} is new, and who reads {name} does not know it"


def _named(old: Mapping[str, Any], direction: str, classes: Classes) -> Iterator[str]:
    """The classes of the same contract that members name in this direction."""
    types = [one["type"] for one in old["fields"].values()] if old["kind"] != "contract" else []
    for method in old["methods"].values():
        types += [method["returns"]] if direction == "out" else [one["type"] for one in method["parameters"]]
    if old["kind"] in {"message", "error"} and direction == "in":
        return
    for spelled in types:
        named = {node.attr for node in ast.walk(_tree(spelled)) if isinstance(node, ast.Attribute)}
        yield from sorted(named & set(classes))


def accepts(wide: str, narrow: str) -> bool:
    """Whether whatever is of the type `narrow` is of the type `wide`, as far as their spelling tells."""
    return all(any(_takes(_tree(one), _tree(other)) for one in members(wide)) for other in members(narrow))


def _takes(wide: ast.expr, narrow: ast.expr) -> bool:
    """Whether one member of a union takes another."""
    spelled, other = ast.unparse(wide), ast.unparse(narrow)
    if spelled == other or spelled in {"typing.Any", "object"}:
        return True
    base, args = _parts(wide)
    narrow_base, narrow_args = _parts(narrow)
    if base == "Annotated" or narrow_base == "Annotated":
        inner, notes = _annotated(wide)
        narrow_inner, narrow_notes = _annotated(narrow)
        return notes <= narrow_notes and accepts(inner, narrow_inner)
    if narrow_base == "Literal":
        if base == "Literal":
            return {ast.unparse(one) for one in narrow_args} <= {ast.unparse(one) for one in args}
        return all(isinstance(one, ast.Constant) and type(one.value).__name__ == base for one in narrow_args)
    if base != narrow_base and narrow_base not in _WIDER.get(base, set()):
        return False
    return not args or _take_each(args, narrow_args)


def _take_each(wide: list[ast.expr], narrow: list[ast.expr]) -> bool:
    """The elements of containers; `tuple[int, ...]` has one kind of them."""
    ours, theirs = ([one for one in each if ast.unparse(one) != "..."] for each in (wide, narrow))
    return len(ours) == len(theirs) and all(
        accepts(ast.unparse(one), ast.unparse(other)) for one, other in zip(ours, theirs, strict=True)
    )


def _annotated(node: ast.expr) -> tuple[str, set[str]]:
    """A type, and the limits that its notes set."""
    base, args = _parts(node)
    if base != "Annotated":
        return ast.unparse(node), set()
    return ast.unparse(args[0]), {ast.unparse(one) for one in args[1:]}


def _parts(node: ast.expr) -> tuple[str, list[ast.expr]]:
    if isinstance(node, ast.Subscript):
        return ast.unparse(node.value), node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return ast.unparse(node), []


def _tree(spelled: str) -> ast.expr:
    try:
        return ast.parse(spelled or "None", mode="eval").body
    except SyntaxError:
        return ast.Constant(spelled)
