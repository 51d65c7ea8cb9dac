"""What changed in a contract, and whether that breaks somebody, by the way in which each value goes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from walls.acceptance import accepts
from walls.annotations import classes_in
from walls.shapes import Member, Method, Shape

Shapes = Mapping[str, Shape]

# Options of pydantic that change what it reads or writes.
OPTIONS = frozenset(
    {
        "alias_generator", "populate_by_name", "validate_by_name", "validate_by_alias", "serialize_by_alias", "strict",
        "str_max_length", "str_min_length", "str_to_lower", "str_to_upper", "str_strip_whitespace", "use_enum_values",
        "coerce_numbers_to_str", "allow_inf_nan", "ser_json_bytes", "val_json_bytes", "ser_json_timedelta",
        "ser_json_temporal", "val_temporal_unit", "ser_json_inf_nan", "extra",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One difference, as a sentence without its period."""

    text: str
    breaks: bool


def changes(name: str, before: Shapes, now: Shapes) -> Iterator[Change]:
    """How a contract or message, and what can be reached from it, differs from what it was."""
    old, new = before[name], now[name]
    if old.kind != new.kind:
        yield Change(f"it was a {old.kind} and is a {new.kind}", breaks=True)
        return
    for method, was in old.methods.items():
        if method in new.methods:
            yield from _method(method, was, new.methods[method])
        else:
            yield Change(f"the method {method} is gone", breaks=True)
    for method in new.methods:
        if method not in old.methods:
            yield Change(f"the method {method} is new", breaks=False)
    seen: set[tuple[str, str]] = set()
    for way, other in _reached(name, before):
        yield from _class(other, before, now, way, seen)


def _reached(name: str, shapes: Shapes) -> Iterator[tuple[str, str]]:
    """The classes that a contract or message names, each with the way in which it goes."""
    shape = shapes[name]
    if shape.kind == "message":
        yield "out", name
        return
    for method in shape.methods.values():
        for parameter in method.parameters.values():
            yield from (("in", other) for other in classes_in(parameter.type))
        yield from (("out", other) for other in classes_in(method.result.type))
    # What a contract raises is nowhere in its signatures: the errors beside it are its own.
    home = name.partition(".")[0]
    yield from (("out", other) for other, one in shapes.items() if one.kind == "error" and other.startswith(f"{home}."))


def _method(name: str, was: Method, now: Method) -> Iterator[Change]:
    if was.safe != now.safe:
        said = "is @safe now" if now.safe else "is no longer @safe, so it is no longer asked twice"
        yield Change(f"{name} {said}", breaks=was.safe)
    if was.result.type != now.result.type:
        what = f"{name} may answer with {now.result.type}, and promised {was.result.type}"
        yield Change(what, breaks=not accepts(was.result.type, now.result.type))
    for parameter, old in was.parameters.items():
        new = now.parameters.get(parameter)
        if new is None:
            yield Change(f"{name} takes no {parameter} any more", breaks=True)
        else:
            yield from _parameter(name, parameter, old, new)
    for parameter, new in now.parameters.items():
        if parameter not in was.parameters:
            demanded = f"{name} demands {parameter}, which is new"
            yield Change(demanded if new.required else f"{name} takes {parameter}, which is new", breaks=new.required)
    order, placed = _placed(now), [one for one in _placed(was) if one in now.parameters]
    if order[: len(placed)] != placed and set(placed) <= set(order):
        yield Change(f"{name} takes its arguments in another order", breaks=True)


def _parameter(method: str, name: str, old: Member, new: Member) -> Iterator[Change]:
    if old.type != new.type:
        what = f"{method} takes {new.type} for {name}, and took {old.type}"
        yield Change(what, breaks=not accepts(new.type, old.type))
    if new.required != old.required:
        said = "demands {}, which could be left out" if new.required else "no longer demands {}"
        yield Change(f"{method} {said.format(name)}", breaks=new.required)
    if new.kind != old.kind:
        how = {"keyword": "by name only", "place": "by place only"}.get(new.kind, "by name and by place")
        yield Change(f"{method} takes {name} {how}", breaks=new.kind != "positional")


def _placed(method: Method) -> list[str]:
    return [name for name, one in method.parameters.items() if one.kind in {"positional", "place"}]


def _class(name: str, before: Shapes, now: Shapes, way: str, seen: set[tuple[str, str]]) -> Iterator[Change]:
    """A value, message or error that goes in or out, and those in it."""
    if (name, way) in seen or name not in before:
        return
    seen.add((name, way))
    old, new = before[name], now.get(name)
    short = name.rpartition(".")[2]
    if new is None:
        yield Change(f"{short} is gone", breaks=True)
        return
    if old.kind != new.kind:
        yield Change(f"{short} was a {old.kind} and is a {new.kind}", breaks=True)
        return
    yield from _fields(short, old, new, way)
    yield from _options(short, old, new, way)
    for one in old.fields.values():
        for other in classes_in(one.type):
            yield from _class(other, before, now, way, seen)


def _fields(name: str, old: Shape, new: Shape, way: str) -> Iterator[Change]:
    for field, was in old.fields.items():
        if field in new.fields:
            yield from _field(f"{name}.{field}", old, was, new.fields[field], way)
        else:
            yield Change(f"{name}.{field} is gone", breaks=True)
    for field, other in new.fields.items():
        if field in old.fields:
            continue
        if old.kind == "enum":
            yield Change(f"{name}.{field} is new, and who reads {name} does not know it", breaks=way == "out")
        else:
            said = "is new and demanded" if other.required else "is new"
            yield Change(f"{name}.{field} {said}", breaks=other.required)
    kept = [field for field in new.fields if field in old.fields]
    if old.kind == "tuple" and (kept != [*old.fields][: len(kept)] or [*new.fields][: len(kept)] != kept):
        yield Change(f"{name} has its fields in other places, and it crosses as an array", breaks=True)


def _field(name: str, shape: Shape, was: Member, now: Member, way: str) -> Iterator[Change]:
    if now.type != was.type and shape.kind == "enum":
        yield Change(f"{name} is {now.type}, and was {was.type}", breaks=True)
    elif now.type != was.type and way == "in":
        yield Change(f"{name} takes {now.type}, and took {was.type}", breaks=not accepts(now.type, was.type))
    elif now.type != was.type:
        yield Change(f"{name} may be {now.type}, and was {was.type}", breaks=not accepts(was.type, now.type))
    if now.required and not was.required:
        yield Change(f"{name} is demanded, and could be left out", breaks=True)
    elif was.required and not now.required:
        # Who reads a TypedDict by its keys meets the gap; elsewhere the default fills it.
        yield Change(f"{name} may be left out", breaks=shape.kind == "dict" and way == "out")


def _options(name: str, old: Shape, new: Shape, way: str) -> Iterator[Change]:
    for option in sorted(OPTIONS & {*old.options, *new.options} - {"extra"}):
        was, other = old.options.get(option), new.options.get(option)
        if was != other:
            yield Change(f"{name} has {option}={other}, and had {was}", breaks=True)
    if way == "in" and (old.options.get("extra") == "'forbid'") != (new.options.get("extra") == "'forbid'"):
        forbids = new.options.get("extra") == "'forbid'"
        said = "refuses fields that it does not know" if forbids else "ignores fields that it does not know"
        yield Change(f"{name} {said}", breaks=forbids)
