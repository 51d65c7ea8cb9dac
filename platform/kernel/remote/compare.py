"""Whether two processes mean the same contract: the caller's description beside the callee's.

What one side sends, the other must accept. The schemas are JSON Schema as pydantic writes it; what is not understood
here and not equal counts as breaking, for the alternative is to find out by a wrong answer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kernel.remote.wire import Described

Schema = Mapping[str, Any]

# For people and for whoever makes the value, not for whoever reads it. Sets take lists in which something is twice.
_IGNORED = frozenset({"$defs", "title", "description", "examples", "deprecated", "default", "discriminator",
                      "readOnly", "writeOnly", "uniqueItems"})  # fmt: skip
_LEAST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_MOST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_UNDERSTOOD = {*_IGNORED, *_LEAST, *_MOST, "type", "const", "enum", "properties", "required", "additionalProperties",
               "items", "prefixItems", "propertyNames"}  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """One member in which the descriptions differ."""

    member: str
    is_breaking: bool
    reason: str

    def __str__(self) -> str:
        return f"{self.member}: {self.reason}"


def compare(mine: Mapping[str, Described], theirs: Mapping[str, Described]) -> list[Difference]:
    """How the callee's contracts (`theirs`) differ from those that the caller asks (`mine`)."""
    found: list[Difference] = []
    for name, one in mine.items():
        other = theirs.get(name)
        if other is None or other["fingerprint"] != one["fingerprint"]:
            found += differences(name, one["description"], other and other["description"])
    return found


def differences(contract: str, mine: Schema, theirs: Schema | None) -> Iterator[Difference]:
    """How the callee's description (`theirs`; None: it has no such contract) differs from the caller's (`mine`)."""
    if theirs is None:
        yield Difference(contract, True, "is not provided there")
        return
    if mine["version"] != theirs["version"]:
        reason = f"is asked as version {mine['version']} and provided as version {theirs['version']}"
        yield Difference(contract, True, reason)
    for name, method in mine["methods"].items():
        member, other = f"{contract}.{name}", theirs["methods"].get(name)
        if other is None:
            yield Difference(member, True, "is not provided there")
            continue
        if method["safe"] != other["safe"]:
            how = "not safe there, but is repeated here" if method["safe"] else "safe there, but not repeated here"
            yield Difference(member, method["safe"], f"is {how}")
        yield from _read(f"{member}, arguments", method["arguments"], other["arguments"])
        yield from _read(f"{member}, result", other["result"], method["result"])
    for name in sorted(theirs["methods"].keys() - mine["methods"].keys()):
        yield Difference(f"{contract}.{name}", False, "is provided there and not known here")
    for name in sorted(theirs["errors"].keys() - mine["errors"].keys()):
        yield Difference(name, False, "is raised there and not known here: it arrives as ContractUnavailable")
    for name, error in mine["errors"].items():
        if (other := theirs["errors"].get(name)) is None:
            yield Difference(name, False, "is not raised there")
        else:
            yield from _read(name, other, error)


def _read(member: str, sender: Schema, reader: Schema) -> Iterator[Difference]:
    if sender == reader:
        return
    sent, accepted = sender["sent"], reader["accepted"]
    reasons = list(dict.fromkeys(_Reading(sent, accepted).refusals(sent, accepted, "")))
    for reason in reasons:
        yield Difference(member, True, reason)
    if not reasons:
        yield Difference(member, False, "differs, and can be read")


class _Reading:
    """One schema read by another, each with its own definitions."""

    def __init__(self, sent: Schema, accepted: Schema) -> None:
        self._sent = sent.get("$defs", {})
        self._accepted = accepted.get("$defs", {})
        self._seen: set[tuple[Any, Any]] = set()

    def refusals(self, sent: Any, accepted: Any, at: str) -> Iterator[str]:
        """Why what is sent could be refused; nothing if it cannot."""
        names = (_name(sent), _name(accepted))
        if names in self._seen:
            return  # a class that holds its own kind: it is being compared
        if all(names):
            self._seen.add(names)
        sent, accepted = _resolved(sent, self._sent), _resolved(accepted, self._accepted)
        if accepted is True or (accepted is not False and not accepted.keys() - _IGNORED):
            return
        if accepted is False or sent is True or not sent.keys() - _IGNORED:
            yield f"{at or 'it'} may be anything, and is not taken"
        elif variants := sent.get("anyOf") or sent.get("oneOf"):
            for one in variants:
                yield from self.refusals(one, accepted, at)
        elif choices := accepted.get("anyOf") or accepted.get("oneOf"):
            yield from self._by_none(sent, choices, at)
        else:
            yield from self._plain(sent, accepted, at)

    def _plain(self, sent: Schema, accepted: Schema, at: str) -> Iterator[str]:
        here = at or "it"
        if unknown := [key for key in accepted if key not in _UNDERSTOOD and not _is_same(key, sent, accepted)]:
            yield f"{here} must keep to another {unknown[0]}"
        elif "const" in sent or "enum" in sent:
            yield from self._values(_values_of(sent), accepted, here)
        elif "const" in accepted or "enum" in accepted:
            yield f"{here} may be more than {_said(_values_of(accepted))}"
        elif not _is_type(sent.get("type"), accepted.get("type")):
            yield f"{here} is sent as {sent.get('type')} and read as {accepted.get('type')}"
        else:
            yield from _bounds(sent, accepted, here)
            yield from self._parts(sent, accepted, at)

    def _by_none(self, sent: Schema, choices: list[Any], at: str) -> Iterator[str]:
        """The refusals of the choice that comes closest, if none takes it."""
        refused: list[list[str]] = []
        for one in choices:
            seen = set(self._seen)
            refused.append(list(self.refusals(sent, one, at)))
            if not refused[-1]:
                return
            self._seen = seen  # what was assumed on the way to a refusal does not hold
        yield from min(refused, key=len)

    def _values(self, values: list[Any], accepted: Schema, here: str) -> Iterator[str]:
        if "const" in accepted or "enum" in accepted:
            known = [(type(one), one) for one in _values_of(accepted)]  # 1 is not True
            new = [one for one in values if (type(one), one) not in known]
            if new:
                yield f"{here} may be {_said(new)}, which is not known"
        elif any(not _is_type(_type_of(one), accepted.get("type")) for one in values):
            yield f"{here} is sent as {_type_of(values[0])} and read as {accepted.get('type')}"
        elif accepted.keys() & {*_LEAST, *_MOST}:
            yield f"{here} is one of {_said(values)}, and must keep to bounds"

    def _parts(self, sent: Schema, accepted: Schema, at: str) -> Iterator[str]:
        if accepted.get("type") == "object":
            yield from self._fields(sent, accepted, at)
        elif accepted.get("type") == "array":
            taken, given = accepted.get("prefixItems", []), sent.get("prefixItems", [])
            for number in range(max(len(taken), len(given))):
                one = given[number] if number < len(given) else sent.get("items", True)
                other = taken[number] if number < len(taken) else accepted.get("items", True)
                yield from self.refusals(one, other, f"{at}[{number}]")
            if sent.get("maxItems") is None or sent["maxItems"] > len(given):
                yield from self.refusals(sent.get("items", True), accepted.get("items", True), f"{at}[]")

    def _fields(self, sent: Schema, accepted: Schema, at: str) -> Iterator[str]:
        own, known = sent.get("properties", {}), accepted.get("properties", {})
        # A class without the key sends its own fields and no others; a mapping has none of its own.
        others = sent.get("additionalProperties", not (own or "properties" in sent))
        rest = accepted.get("additionalProperties", True)
        for name, schema in known.items():
            where = f"{at}.{name}".lstrip(".")
            if name in own or others is not False:
                yield from self.refusals(own.get(name, others), schema, where)
            if name in accepted.get("required", ()) and name not in sent.get("required", ()):
                yield f"{where} is demanded and {'may be left out' if name in own else 'not sent'}"
        for name in sorted(own.keys() - known.keys()):
            where = f"{at}.{name}".lstrip(".")
            if rest is False:
                yield f"{where} is sent and not known"
            elif rest is not True:
                yield from self.refusals(own[name], rest, where)
        if others is not False and rest is not True:
            yield from self.refusals(others, rest, f"{at}.*".lstrip("."))
        if "propertyNames" in accepted:
            names = sent.get("propertyNames", {"type": "string"})
            yield from self.refusals(names, accepted["propertyNames"], f"a key of {at or 'it'}")


def _resolved(schema: Any, definitions: Schema) -> Any:
    while isinstance(schema, Mapping) and "$ref" in schema:
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**definitions[schema["$ref"].rpartition("/")[2]], **beside}
    return schema


def _name(schema: Any) -> Any:
    return schema.get("$ref") if isinstance(schema, Mapping) else None


def _bounds(sent: Schema, accepted: Schema, here: str) -> Iterator[str]:
    for bound in (*_LEAST, *_MOST):
        if bound not in accepted:
            continue
        is_least, limit = bound in _LEAST, accepted[bound]
        given = sent.get(bound, 0 if bound in {"minLength", "minItems", "minProperties"} else None)
        if given is None or (given < limit if is_least else given > limit):
            yield f"{here} may be {'less' if is_least else 'more'} than its {bound} of {limit}"


def _is_same(key: str, sent: Schema, accepted: Schema) -> bool:
    """Whether both say the same; not where they only name what may differ."""
    return bool(accepted[key] == sent.get(key)) and "$ref" not in str(accepted[key])


def _is_type(sent: Any, accepted: Any) -> bool:
    return accepted is None or sent == accepted or (sent, accepted) == ("integer", "number")


def _values_of(schema: Schema) -> list[Any]:
    return [schema["const"]] if "const" in schema else list(schema["enum"])


def _type_of(value: Any) -> str | None:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return names.get(type(value))


def _said(values: list[Any]) -> str:
    return " or ".join(map(repr, values))
