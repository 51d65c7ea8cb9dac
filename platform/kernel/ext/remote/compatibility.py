"""Compare two descriptions of a contract or message: can one side read everything that the other sends?

`kernel contracts lock` compares the locked description with the current one, and readiness compares the descriptions
of two processes; both use this module. Schemas are JSON Schema as `kernel.ext.remote.schema` writes it. A keyword that
this module does not know counts as breaking unless it is equal on both sides.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Schema = Mapping[str, Any]

_LEAST = {"minLength": 0, "minItems": 0, "minProperties": 0}
_MOST = ("maxLength", "maxItems", "maxProperties", "x-max-digits", "x-decimal-places")
_NUMERIC = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
# Keywords that refuse values and that this module compares.
_UNDERSTOOD = frozenset(
    {
        *_LEAST, *_MOST, *_NUMERIC, "type", "const", "enum", "properties", "required", "additionalProperties", "items",
        "prefixItems", "propertyNames", "uniqueItems", "multipleOf", "format", "discriminator", "x-checks", "x-schemes",
        "x-strict", "x-computed", "x-names", "x-fields", "x-written",
    }
)  # fmt: skip
# Keywords that refuse values, of which this module only checks the equality.
_OPAQUE = frozenset(
    {
        "pattern", "allOf", "not", "if", "then", "else", "contains", "minContains", "maxContains", "patternProperties",
        "dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties", "contentEncoding",
        "contentMediaType", "contentSchema", "x-zone", "x-now", "x-unit", "x-strip", "x-lower", "x-upper",
        "x-ascii",
    }
)  # fmt: skip
# All keywords that can refuse a value. Others, such as `title` or `example`, are documentation.
ASSERTIONS = _UNDERSTOOD | _OPAQUE | {"$ref", "$defs", "anyOf", "oneOf"}


class Effect(StrEnum):
    """The effect of a difference on the side whose description comes first."""

    # One side can refuse a value that the other sends.
    REFUSED = "refused"
    # Each side can read the other, but the second side has no part that the first relies on.
    REMOVED = "removed"
    # The second side has a part that the first neither knows nor needs.
    ADDED = "added"


@dataclass(frozen=True)
class Difference:
    """One member in which the descriptions differ."""

    member: str
    effect: Effect
    reason: str

    @property
    def is_breaking(self) -> bool:
        """Return whether one process can refuse a value that the other sends."""
        return self.effect is Effect.REFUSED

    def __str__(self) -> str:
        return f"{self.member}: {self.reason}"


def compare(mine: Mapping[str, Schema], theirs: Mapping[str, Schema]) -> list[Difference]:
    """List how another process's contracts and messages (`theirs`) differ from those this process relies on (`mine`).

    The values have a `fingerprint` and a `description`; descriptions with equal fingerprints are not compared. Raises
    ValueError for an invalid description.
    """
    found: list[Difference] = []
    for name, one in mine.items():
        other = theirs.get(name)
        try:
            if other is None or other["fingerprint"] != one["fingerprint"]:
                found += differences(name, one["description"], other and other["description"])
        except (LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{name} is not described as this kernel describes contracts: {error!r}") from None
    return found


def differences(name: str, mine: Schema, theirs: Schema | None) -> Iterator[Difference]:
    """Yield how the description `theirs` differs from `mine`, the one of the caller or subscriber.

    `theirs` is None if the other side has no contract or message of this name.
    """
    if theirs is None:
        yield Difference(name, Effect.REFUSED, "is not provided")
    elif mine.get("format") != theirs.get("format"):
        yield Difference(name, Effect.ADDED, "is described by another version of the kernel, and was not compared")
    elif ("message" in mine) != ("message" in theirs):
        yield Difference(name, Effect.REFUSED, "is a message on one side and a contract on the other")
    elif "message" in mine:
        yield from message_differences(name, reader=mine, publisher=theirs)
    else:
        yield from _contract(name, mine, theirs)


def message_differences(name: str, *, reader: Schema, publisher: Schema) -> Iterator[Difference]:
    """Yield how the message that the publisher sends differs from the one that the reader knows."""
    sent, known, oldest = publisher["version"], reader["version"], reader.get("oldest", reader["version"])
    if sent > known:
        yield Difference(name, Effect.REFUSED, f"is published as version {sent} and read up to version {known}")
    elif sent < oldest:
        yield Difference(name, Effect.REFUSED, f"is published as version {sent} and read from version {oldest} on")
    elif sent < known:
        yield Difference(name, Effect.ADDED, f"is published as version {sent} and read as version {known} by @upcast")
    else:
        yield from _read(name, publisher["message"], reader["message"], is_ours=False)


def stored_differences(name: str, *, reader: Schema, publisher: Schema) -> Iterator[Difference]:
    """Yield why newer code cannot read rows that the publisher stored in the same version."""
    yield from _read(name, publisher["message"], reader["message"], is_ours=True)


def _contract(name: str, mine: Schema, theirs: Schema) -> Iterator[Difference]:
    if mine["version"] != theirs["version"]:
        reason = f"is called as version {mine['version']} and provided as version {theirs['version']}"
        yield Difference(name, Effect.REFUSED, reason)
        return
    for method, one in mine["methods"].items():
        member, other = f"{name}.{method}", theirs["methods"].get(method)
        if other is None:
            yield Difference(member, Effect.REFUSED, "is not provided")
        else:
            yield from _method(member, one, other)
    for method in sorted(theirs["methods"].keys() - mine["methods"].keys()):
        yield Difference(f"{name}.{method}", Effect.ADDED, "is provided, but not known to the caller")
    for error in sorted(theirs["errors"].keys() - mine["errors"].keys()):
        yield Difference(
            error, Effect.ADDED, "is raised, but not known to the caller: it arrives as ContractUnavailable"
        )
    for error, form in mine["errors"].items():
        if (other := theirs["errors"].get(error)) is None:
            yield Difference(error, Effect.REMOVED, "is not raised")
        else:
            yield from _read(error, other, form, is_ours=False)


def _method(member: str, mine: Schema, theirs: Schema) -> Iterator[Difference]:
    if mine["safe"] and not theirs["safe"]:
        yield Difference(member, Effect.REFUSED, "is not @safe, but the caller repeats it")
    elif theirs["safe"] and not mine["safe"]:
        yield Difference(member, Effect.ADDED, "is @safe, but the caller does not repeat it")
    sent = list(_read(f"{member}, arguments", mine["arguments"], theirs["arguments"], is_ours=True))
    yield from sent
    yield from _narrowed(f"{member}, arguments", mine["arguments"], theirs["arguments"], {one.reason for one in sent})
    yield from _read(f"{member}, result", theirs["result"], mine["result"], is_ours=False)
    # Calls pass arguments by name. Their positions matter only to callers in the same code base.
    known = theirs["arguments"]["accepted"].get("properties", {})
    placed = [name for name in mine.get("positional", ()) if name in known]
    if "positional" in theirs and theirs["positional"][: len(placed)] != placed:
        order = ", ".join(theirs["positional"]) or "none"
        yield Difference(member, Effect.REMOVED, f"takes other positional arguments: {order}, not {', '.join(placed)}")
    for name in mine.get("named", ()):
        if "named" in theirs and name in known and name not in theirs["named"]:
            yield Difference(member, Effect.REMOVED, f"takes {name} by position only")


def _narrowed(member: str, mine: Schema, theirs: Schema, known: set[str]) -> Iterator[Difference]:
    """Yield which arguments are no longer accepted, although callers with this kernel never send them."""
    if mine != theirs:
        before, now = mine["accepted"], theirs["accepted"]
        for note in _Reading(before, now, is_open=True).notes(before, now, ""):
            if note.lacks is None and note.text not in known:
                yield Difference(member, Effect.REMOVED, note.text)


def _read(member: str, sender: Schema, reader: Schema, *, is_ours: bool) -> Iterator[Difference]:
    """Yield how the reader treats the values that are sent. `is_ours`: the first side sends."""
    if sender == reader:
        return
    sent, accepted = sender["sent"], reader["accepted"]
    notes = list(dict.fromkeys(_Reading(sent, accepted).notes(sent, accepted, "")))
    for note in notes:
        yield Difference(member, note.effect(is_ours=is_ours), note.text)
    if not notes:
        yield Difference(member, Effect.ADDED, "differs, and can be read")


@dataclass(frozen=True)
class _Note:
    """The treatment of one part of a value that is read."""

    text: str
    # The part is left out by the sender, or ignored by the reader. None: the value can be refused.
    lacks: str | None = None

    def effect(self, *, is_ours: bool) -> Effect:
        if self.lacks is None:
            return Effect.REFUSED
        # The first side sends a part that is ignored, or expects a part that is not sent.
        return Effect.REMOVED if (self.lacks == "reader") == is_ours else Effect.ADDED


class _Reading:
    """Compares a schema that is sent with the one that reads it, each with its own definitions.

    `is_open`: the sender may also send unknown fields.
    """

    def __init__(self, sent: Schema, accepted: Schema, *, is_open: bool = False) -> None:
        self._is_open = is_open
        self._sent = sent.get("$defs", {})
        self._accepted = accepted.get("$defs", {})
        self._seen: set[tuple[Any, Any]] = set()

    def notes(self, sent: Any, accepted: Any, at: str) -> Iterator[_Note]:
        """Yield why a sent value can be refused, and which parts of it are ignored or get their defaults."""
        names = (_name(sent), _name(accepted))
        if names in self._seen:
            return  # A recursive class whose comparison is in progress.
        if all(names):
            self._seen.add(names)
        sent, accepted = _resolved(sent, self._sent), _resolved(accepted, self._accepted)
        if accepted is True or (accepted is not False and not accepted.keys() & ASSERTIONS - {"$defs"}):
            return
        if accepted is False or sent is True or not sent.keys() & ASSERTIONS - {"$defs"}:
            yield _Note(f"{at or 'it'} can be anything, which is not accepted")
        elif variants := sent.get("anyOf") or sent.get("oneOf"):
            yield from _checks(sent, accepted, at or "it")
            for one in variants:
                yield from self.notes(one, accepted, at)
        elif choices := accepted.get("anyOf") or accepted.get("oneOf"):
            yield from _checks(sent, accepted, at or "it")
            each = [{"const": value} for value in sent["enum"]] if len(sent.get("enum", ())) > 1 else [sent]
            for one in each:
                yield from self._choices(one, choices, accepted, at)
        else:
            yield from self._plain(sent, accepted, at)

    def _choices(self, sent: Schema, choices: list[Any], accepted: Schema, at: str) -> Iterator[_Note]:
        """Yield the notes of the alternative with the fewest refusals."""
        tag = accepted.get("discriminator", {}).get("propertyName")
        if tag in sent.get("properties", {}) and tag not in sent.get("required", ()):
            yield _Note(f"{f'{at}.{tag}'.lstrip('.')} selects the variant, but can be left out")
        found: list[tuple[tuple[bool, int, int], list[_Note]]] = []
        for one in choices:
            seen = set(self._seen)
            notes = list(self.notes(sent, one, at))
            if not notes:
                return
            self._seen = seen  # Assumptions about recursive classes do not hold after a refusal.
            is_other = sent.get("type") != _resolved(one, self._accepted).get("type")
            found.append(((is_other, sum(note.lacks is None for note in notes), len(notes)), notes))
        yield from min(found, key=lambda one: one[0])[1]

    def _plain(self, sent: Schema, accepted: Schema, at: str) -> Iterator[_Note]:
        here = at or "it"
        yield from _checks(sent, accepted, here)
        unknown = [key for key in accepted if key in _OPAQUE and not _is_same(key, sent, accepted)]
        if unknown:
            yield _Note(f"{here} must have another {unknown[0].removeprefix('x-')}")
        elif "const" in sent or "enum" in sent:
            yield from _names(sent.get("x-names", {}), accepted.get("x-names", {}), here)
            yield from _values(_values_of(sent), accepted, here)
        elif sent.get("type") == "null" and ("const" in accepted or "enum" in accepted):
            yield from _values([None], accepted, here)
        elif "const" in accepted or "enum" in accepted:
            yield _Note(f"{here} can be more than {_said(_values_of(accepted))}")
        elif not _is_type(sent.get("type"), accepted):
            yield _Note(f"{here} is sent as {sent.get('type')} and read as {accepted.get('type')}")
        elif not _is_format(sent.get("format"), accepted.get("format")):
            yield _Note(f"{here} is sent with the format {sent.get('format')} and read as {accepted.get('format')}")
        else:
            yield from _bounds(sent, accepted, here)
            yield from self._parts(sent, accepted, at)

    def _parts(self, sent: Schema, accepted: Schema, at: str) -> Iterator[_Note]:
        if accepted.get("type") == "object":
            yield from self._fields(sent, accepted, at)
        elif accepted.get("type") == "array":
            taken, given = accepted.get("prefixItems", []), sent.get("prefixItems", [])
            for name, other in zip(sent.get("x-fields", ()), accepted.get("x-fields", ()), strict=False):
                if name != other:
                    yield _Note(f"{at or 'it'} has {name} where {other} is read")
            for number in range(max(len(taken), len(given))):
                one = given[number] if number < len(given) else sent.get("items", True)
                other = taken[number] if number < len(taken) else accepted.get("items", True)
                if number < sent.get("maxItems", number + 1):
                    yield from self.notes(one, other, f"{at}[{number}]")
            if sent.get("maxItems") is None or sent["maxItems"] > len(given):
                yield from self.notes(sent.get("items", True), accepted.get("items", True), f"{at}[]")

    def _fields(self, sent: Schema, accepted: Schema, at: str) -> Iterator[_Note]:
        own, known = sent.get("properties", {}), accepted.get("properties", {})
        # A class without the keyword sends its own fields and no others; a mapping has no fields of its own.
        others = sent.get("additionalProperties", not (own or "properties" in sent))
        rest = accepted.get("additionalProperties", True)
        for name, schema in known.items():
            where = f"{at}.{name}".lstrip(".")
            if name in own or others is not False:
                yield from self.notes(own.get(name, others), schema, where)
            is_sent = name in sent.get("required", ())
            if name in accepted.get("required", ()) and not is_sent:
                yield _Note(f"{where} is required, but {'can be left out' if name in own else 'is not sent'}")
            elif name not in own and others is False:
                yield _Note(f"{where} is not sent", lacks="sender")
        yield from self._unknown({name: own[name] for name in sorted(own.keys() - known.keys())}, accepted, at)
        if self._is_open and others is False and rest is False and "additionalProperties" not in sent:
            yield _Note(f"{at or 'it'} refuses unknown fields, which were ignored")
        if others is not False and rest is not True:
            yield from self.notes(others, rest, f"{at}.*".lstrip("."))
        if "propertyNames" in accepted:
            names = sent.get("propertyNames", {"type": "string"})
            yield from self.notes(names, accepted["propertyNames"], f"a key of {at or 'it'}")

    def _unknown(self, fields: Schema, accepted: Schema, at: str) -> Iterator[_Note]:
        """Yield how the reader treats fields that it does not name."""
        rest = accepted.get("additionalProperties", True)
        for name, schema in fields.items():
            where = f"{at}.{name}".lstrip(".")
            if rest is False:
                yield _Note(f"{where} is sent, but not accepted")
            elif rest is not True:
                yield from self.notes(schema, rest, where)
            elif "properties" in accepted and name not in accepted.get("x-computed", ()):
                yield _Note(f"{where} is sent and ignored", lacks="reader")


def _resolved(schema: Any, definitions: Schema) -> Any:
    for _ in range(len(definitions) + 1):
        if not isinstance(schema, Mapping) or "$ref" not in schema:
            return schema
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**definitions[schema["$ref"].rpartition("/")[2]], **beside}
    raise ValueError("a definition refers to itself")


def _name(schema: Any) -> Any:
    return schema.get("$ref") if isinstance(schema, Mapping) else None


def _checks(sent: Schema, accepted: Schema, here: str) -> Iterator[_Note]:
    """Yield validators and serializers of the reader that differ by name; their code cannot be compared."""
    if (written := sent.get("x-written")) != (read := accepted.get("x-written")):
        yield _Note(f"{here} is written by {written or 'pydantic'} and read as written by {read or 'pydantic'}")
    for check in accepted.get("x-checks", ()):
        if check not in sent.get("x-checks", ()):
            yield _Note(f"{here} must pass the validator {check}")


def _names(sent: Schema, accepted: Schema, here: str) -> Iterator[_Note]:
    """Yield members of an enum that have different values on both sides, so that one would be read as another."""
    for name, value in sent.items():
        if name in accepted and accepted[name] != value:
            yield _Note(f"{here}, {name}, is sent as {value!r} and read as {accepted[name]!r}")


def _values(values: list[Any], accepted: Schema, here: str) -> Iterator[_Note]:
    """Yield which of these values the reader refuses."""
    if "const" in accepted or "enum" in accepted:
        known = [(type(one), one) for one in _values_of(accepted)]  # In Python 1 == True, but the JSON values differ.
        if new := [one for one in values if (type(one), one) not in known]:
            yield _Note(f"{here} can be {_said(new)}, which is not known")
    elif wrong := next((one for one in values if not _is_type(_type_of(one), accepted)), None):
        yield _Note(f"{here} is sent as {_type_of(wrong)} and read as {accepted.get('type')}")
    elif "format" in accepted:
        yield _Note(f"{here} is {_said(values)} and read as {accepted['format']}")
    else:
        for one in values:
            sized = {"minLength": len(one), "maxLength": len(one)} if isinstance(one, str) else {}
            number = {} if isinstance(one, str | bool | None) else {"minimum": one, "maximum": one, "multipleOf": one}
            yield from _bounds({"type": accepted.get("type"), **sized, **number}, accepted, f"{here}, {one!r},")


def _bounds(sent: Schema, accepted: Schema, here: str) -> Iterator[_Note]:
    for bound, default in _LEAST.items():
        limit = accepted.get(bound, default)
        # A set drops duplicates, so it can have fewer elements than the sent array.
        is_deduplicated = bound == "minItems" and accepted.get("uniqueItems") and not sent.get("uniqueItems")
        given = min(sent.get(bound, default), 1) if is_deduplicated else sent.get(bound, default)
        if given < limit:
            yield _Note(f"{here} can be less than its {bound} of {limit}")
    for bound in _MOST:
        if bound in accepted and (sent.get(bound) is None or sent[bound] > accepted[bound]):
            yield _Note(f"{here} can be more than its {bound.removeprefix('x-')} of {accepted[bound]}")
    for bound, sign in (("inimum", 1), ("aximum", -1)):
        limit_, given_ = _limit(accepted, bound, sign), _limit(sent, bound, sign)
        if limit_ is not None and (given_ is None or given_ < limit_):
            said = f"m{bound}" if f"m{bound}" in accepted else f"exclusiveM{bound}"
            yield _Note(f"{here} can be {'less' if sign > 0 else 'more'} than its {said} of {accepted[said]}")
    step = accepted.get("multipleOf")
    if step is not None and (sent.get("multipleOf") is None or sent["multipleOf"] % step):
        yield _Note(f"{here} must be a multiple of {step}")
    if "x-schemes" in accepted and not set(sent.get("x-schemes", ("any",))) <= set(accepted["x-schemes"]):
        yield _Note(f"{here} must have one of the schemes {', '.join(accepted['x-schemes'])}")


def _limit(schema: Schema, bound: str, sign: int) -> tuple[float, bool] | None:
    """Return the lower limit times `sign`, and whether it is exclusive: a larger tuple is narrower."""
    found = []
    if (inclusive := schema.get(f"m{bound}")) is not None:
        found.append((sign * inclusive, False))
    if (exclusive := schema.get(f"exclusiveM{bound}")) is not None:
        whole = schema.get("type") == "integer" and float(exclusive).is_integer()
        found.append((sign * exclusive + 1, False) if whole else (sign * exclusive, True))
    return max(found, default=None)


def _is_same(key: str, sent: Schema, accepted: Schema) -> bool:
    """Return whether a keyword is equal in both schemas and contains no reference, whose target could differ."""
    return bool(accepted[key] == sent.get(key)) and "$ref" not in str(accepted[key])


def _is_type(sent: Any, accepted: Schema) -> bool:
    kind = accepted.get("type")
    if sent == "boolean" and kind in {"integer", "number"}:
        # pydantic reads true as 1, unless the field is strict.
        return not accepted.get("x-strict")
    return kind is None or sent == kind or (sent, kind) == ("integer", "number")


def _is_format(sent: str | None, accepted: str | None) -> bool:
    return accepted is None or sent == accepted or (accepted == "uuid" and (sent or "").startswith("uuid"))


def _values_of(schema: Schema) -> list[Any]:
    return [schema["const"]] if "const" in schema else list(schema["enum"])


def _type_of(value: Any) -> str | None:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return names.get(type(value))


def _said(values: list[Any]) -> str:
    return " or ".join(map(repr, values))
