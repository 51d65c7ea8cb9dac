"""Whether one type takes whatever another does, as far as their spelling tells."""

import ast
from collections.abc import Iterator
from itertools import zip_longest

from walls.annotations import members, parts_of, tree_of

# What a type takes beside itself.
_WIDER = {
    "int": {"bool"},
    "float": {"int", "bool"},
    "decimal.Decimal": {"int"},
    "collections.abc.Sequence": {"list", "tuple"},
    "collections.abc.Mapping": {"dict"},
    "collections.abc.Set": {"set", "frozenset"},
}
# Notes that change what a value looks like on the wire: a change breaks, whichever way it goes.
_ON_THE_WIRE = ("Field(alias", "Field(serialization_", "Field(validation_", "Field(exclude", "Field(discriminator")


def accepts(wide: str, narrow: str) -> bool:
    """Whether whatever is of the type `narrow` is of the type `wide`, as far as their spelling tells."""
    return all(any(_takes(one, other) for one in _single(wide)) for other in _single(narrow))


def _single(spelled: str) -> Iterator[ast.expr]:
    """The members of a union, each value of a Literal for itself."""
    for one in members(spelled):
        tree = tree_of(one)
        base, args = parts_of(tree)
        yield from (tree_of(f"Literal[{ast.unparse(each)}]") for each in args) if base == "Literal" else [tree]


def _takes(wide: ast.expr, narrow: ast.expr) -> bool:
    """Whether one member of a union takes another."""
    if ast.unparse(wide) == ast.unparse(narrow):
        return True
    base, args = parts_of(wide)
    narrow_base, narrow_args = parts_of(narrow)
    if base == "Annotated" or narrow_base == "Annotated":
        inner, notes = _annotated(wide)
        narrow_inner, narrow_notes = _annotated(narrow)
        is_same = _shown(notes) == _shown(narrow_notes)
        kept = all(any(_implies(one, note) for one in narrow_notes) for note in notes - _shown(notes))
        return is_same and kept and accepts(inner, narrow_inner)
    if narrow_base == "Literal":
        value = narrow_args[0]  # the member of an enum is no constant
        return (
            base != "Literal" and isinstance(value, ast.Constant) and _takes(wide, ast.Name(type(value.value).__name__))
        )
    if base != narrow_base and narrow_base not in _WIDER.get(base, set()):
        return False
    return not args or _take_each(base, args, narrow_base, narrow_args)


def _take_each(base: str, wide: list[ast.expr], narrow_base: str, narrow: list[ast.expr]) -> bool:
    """The elements of containers; `tuple[int, ...]` has any number of one kind."""
    ours, theirs = ([ast.unparse(one) for one in each] for each in (wide, narrow))
    if narrow_base == "tuple" and theirs[-1:] != ["..."] and (base != "tuple" or ours[-1:] == ["..."]):
        return bool(theirs) and all(accepts(ours[0], one) for one in theirs)
    if base != "tuple" and narrow_base == "tuple":
        theirs = theirs[:1]
    return all(
        one is not None and other is not None and (one == other or (one != "..." != other and accepts(one, other)))
        for one, other in zip_longest(ours, theirs)
    )


def _annotated(node: ast.expr) -> tuple[str, set[str]]:
    """A type, and what its notes say."""
    base, args = parts_of(node)
    if base != "Annotated":
        return ast.unparse(node), set()
    return ast.unparse(args[0]), {ast.unparse(one) for one in args[1:]}


def _shown(notes: set[str]) -> set[str]:
    return {one for one in notes if one.startswith(_ON_THE_WIRE) or "Serializer(" in one}


def _implies(note: str, other: str) -> bool:
    """Whether what keeps one limit keeps another: `Field(ge=2)` keeps `Field(ge=1)`."""
    if note == other:
        return True
    (key, limit), (other_key, other_limit) = _limit(note), _limit(other)
    if key != other_key or limit is None or other_limit is None:
        return False
    if key in {"ge", "gt", "min_length"}:
        return limit >= other_limit
    return key in {"le", "lt", "max_length"} and limit <= other_limit


def _limit(note: str) -> tuple[str, float | None]:
    call = tree_of(note)
    if not isinstance(call, ast.Call) or not call.keywords:
        return note, None
    try:
        value = ast.literal_eval(call.keywords[0].value)
    except ValueError:
        value = None
    return call.keywords[0].arg or "", value if isinstance(value, int | float) else None
