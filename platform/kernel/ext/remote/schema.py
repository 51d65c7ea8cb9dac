"""Describe a type as JSON Schema that contains everything that pydantic refuses, and no documentation.

pydantic's own JSON Schema omits constraints for which JSON Schema has no keyword: a required time zone, the digits of a
decimal, the schemes of a URL, validators. This module adds them under keywords that begin with `x-`.
"""

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema, to_jsonable_python

from kernel.ext.remote.compatibility import ASSERTIONS

Schema = dict[str, Any]

_BY_NAME = frozenset({"properties", "$defs"})
_SORTED = frozenset({"enum", "required", "x-checks", "x-computed", "x-schemes"})
_TRANSFORMS = {"strip_whitespace": "x-strip", "to_lower": "x-lower", "to_upper": "x-upper", "ascii_only": "x-ascii"}
_BYTES = {"utf8": "binary", "base64": "base64url", "hex": "hex"}


def both_ways(adapter: TypeAdapter[Any]) -> Schema:
    """Describe a type as it is sent and as it is accepted. Raises pydantic.PydanticInvalidForJsonSchema."""
    return {
        "sent": _canonical(adapter.json_schema(mode="serialization", schema_generator=_Schemas)),
        "accepted": _canonical(adapter.json_schema(mode="validation", schema_generator=_Schemas)),
    }


def _canonical(schema: Any, *, by_name: bool = False) -> Any:
    """Keep the keywords that can refuse a value, in a fixed order.

    `by_name`: the keys are names of fields or classes.
    """
    if isinstance(schema, list):
        return [_canonical(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept: Schema = {}
    for key, value in sorted(schema.items()):
        if by_name or key == "x-names":
            kept[key] = value if key == "x-names" else _canonical(value)
        elif key in _SORTED:
            kept[key] = sorted({repr(one): one for one in value}.values(), key=repr)
        elif key == "discriminator":
            kept[key] = {"propertyName": value["propertyName"]}
        elif key in {"anyOf", "oneOf"}:
            kept[key] = sorted((_canonical(one) for one in value), key=repr)
        elif key in ASSERTIONS:
            kept[key] = value if key == "const" else _canonical(value, by_name=key in _BY_NAME)
    return kept


class _Schemas(GenerateJsonSchema):
    """pydantic's JSON Schema, with the constraints that it omits."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # The configurations of the classes that are being described, the innermost last.
        self._configs: list[Mapping[str, Any]] = [{}]

    def field_is_required(
        self, field: core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField, total: bool
    ) -> bool:
        """Return whether a value always has the field: sent values also have the fields with a default."""
        if self.mode == "serialization" and field["type"] != "typed-dict-field":
            return field.get("serialization_exclude_if") is None
        return super().field_is_required(field, total)

    def generate_inner(self, schema: Any) -> Schema:
        """Describe any type, and name a serializer without a return type."""
        found = super().generate_inner(schema)
        written = schema.get("serialization", {})
        if "function" in written and "return_schema" not in written and (name := _public_name(written["function"])):
            return {**found, "x-written": name}
        return found

    def model_schema(self, schema: core_schema.ModelSchema) -> Schema:
        """Describe a model."""
        with self._within(schema):
            return super().model_schema(schema)

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> Schema:
        """Describe a dataclass."""
        with self._within(schema):
            return super().dataclass_schema(schema)

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> Schema:
        """Describe a TypedDict."""
        with self._within(schema):
            return super().typed_dict_schema(schema)

    def model_fields_schema(self, schema: core_schema.ModelFieldsSchema) -> Schema:
        """Describe the fields of a model."""
        return self._computed(super().model_fields_schema(schema), schema)

    def dataclass_args_schema(self, schema: core_schema.DataclassArgsSchema) -> Schema:
        """Describe the fields of a dataclass."""
        return self._computed(super().dataclass_args_schema(schema), schema)

    def int_schema(self, schema: core_schema.IntSchema) -> Schema:
        """Describe an int; a strict one refuses true and false."""
        return super().int_schema(schema) | self._strict(schema)

    def float_schema(self, schema: core_schema.FloatSchema) -> Schema:
        """Describe a float; a strict one refuses true and false."""
        return super().float_schema(schema) | self._strict(schema)

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> Schema:
        """Describe a Decimal: a text with a format, and limits as for a number."""
        digits = {"x-max-digits": schema.get("max_digits"), "x-decimal-places": schema.get("decimal_places")}
        limits = {name: schema.get(name) for name in ("ge", "gt", "le", "lt", "multiple_of")}
        numbers: Any = {name: None if limit is None else float(str(limit)) for name, limit in limits.items()}
        number = core_schema.float_schema(**numbers)
        bounds = super().float_schema(number) | {key: value for key, value in digits.items() if value is not None}
        text = bounds | {"type": "string", "format": "decimal"}
        return {"anyOf": [bounds | {"x-strict": True}, text]} if self.mode == "validation" else text

    def named_tuple_schema(self, schema: core_schema.NamedTupleSchema) -> Schema:
        """Describe a NamedTuple, which is sent as an array, and the order of its fields."""
        return super().named_tuple_schema(schema) | {"x-fields": [field["name"] for field in schema["fields"]]}

    def str_schema(self, schema: core_schema.StringSchema) -> Schema:
        """Describe a text, and how reading changes it."""
        found = super().str_schema(schema)
        for name, keyword in _TRANSFORMS.items():
            if schema.get(name, self._configs[-1].get(f"str_{name}")):
                found[keyword] = True
        return found

    def bytes_schema(self, schema: core_schema.BytesSchema) -> Schema:
        """Describe bytes by their encoding in this direction."""
        option = "ser_json_bytes" if self.mode == "serialization" else "val_json_bytes"
        return super().bytes_schema(schema) | {"format": _BYTES[self._configs[-1].get(option, "utf8")]}

    def date_schema(self, schema: core_schema.DateSchema) -> Schema:
        """Describe a date, and whether it must be in the past or future."""
        return self._moment(super().date_schema(schema), schema)

    def time_schema(self, schema: core_schema.TimeSchema) -> Schema:
        """Describe a time, and whether it must have a time zone."""
        return self._moment(super().time_schema(schema), schema)

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> Schema:
        """Describe a datetime, whether it must have a time zone, and whether it must be in the past or future."""
        return self._moment(super().datetime_schema(schema), schema)

    def timedelta_schema(self, schema: core_schema.TimedeltaSchema) -> Schema:
        """Describe a duration."""
        return self._moment(super().timedelta_schema(schema), schema)

    def enum_schema(self, schema: core_schema.EnumSchema) -> Schema:
        """Describe an enum by its values and their names."""
        names = {member.name: to_jsonable_python(member.value) for member in schema["members"]}
        return super().enum_schema(schema) | {"x-names": names}

    def dict_schema(self, schema: core_schema.DictSchema) -> Schema:
        """Describe a mapping, and its keys unless they are arbitrary texts."""
        keys = self.generate_inner(schema.get("keys_schema") or core_schema.str_schema())
        return super().dict_schema(schema) | ({} if keys == {"type": "string"} else {"propertyNames": keys})

    def url_schema(self, schema: core_schema.UrlSchema) -> Schema:
        """Describe a URL and its schemes."""
        return super().url_schema(schema) | _schemes(schema)

    def multi_host_url_schema(self, schema: core_schema.MultiHostUrlSchema) -> Schema:
        """Describe a URL with several hosts, and its schemes."""
        return super().multi_host_url_schema(schema) | _schemes(schema)

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> Schema:
        """Describe the validated type, and name the validator."""
        return _checked(super().function_before_schema(schema), schema)

    def function_after_schema(self, schema: core_schema.AfterValidatorFunctionSchema) -> Schema:
        """Describe the validated type, and name the validator."""
        return _checked(super().function_after_schema(schema), schema)

    def function_wrap_schema(self, schema: core_schema.WrapValidatorFunctionSchema) -> Schema:
        """Describe the validated type, and name the validator."""
        return _checked(super().function_wrap_schema(schema), schema)

    def function_plain_schema(self, schema: core_schema.PlainValidatorFunctionSchema) -> Schema:
        """Describe a validator that replaces a type, of which only the name is known."""
        is_told = "json_schema_input_schema" in schema or _validator(schema) is None
        return _checked(super().function_plain_schema(schema) if is_told else {}, schema)

    @contextmanager
    def _within(self, schema: Any) -> Iterator[None]:
        self._configs.append(schema.get("config") or {})
        try:
            yield
        finally:
            self._configs.pop()

    def _computed(self, found: Schema, schema: Any) -> Schema:
        """Name the computed fields for the reader, which computes them again although they are sent."""
        names = [one.get("alias", one["property_name"]) for one in schema.get("computed_fields", ())]
        return found | {"x-computed": names} if names and self.mode == "validation" else found

    def _strict(self, schema: Any) -> Schema:
        return {"x-strict": True} if schema.get("strict", self._configs[-1].get("strict")) else {}

    def _moment(self, found: Schema, schema: Any) -> Schema:
        config = self._configs[-1]
        unit = config.get("val_temporal_unit", "infer")
        more = {"x-zone": schema.get("tz_constraint"), "x-now": schema.get("now_op")}
        more["x-unit"] = None if unit == "infer" else unit
        found = found | {keyword: value for keyword, value in more.items() if value is not None}
        written = {config.get("ser_json_temporal", "iso8601"), config.get("ser_json_timedelta", "iso8601")}
        if self.mode == "validation" and written != {"iso8601"}:
            return {"anyOf": [found, {**found, "type": "number"}]}
        return found


def _schemes(schema: Any) -> Schema:
    return {"x-schemes": schema["allowed_schemes"]} if schema.get("allowed_schemes") else {}


def _checked(found: Schema, schema: Any) -> Schema:
    name = _validator(schema)
    return found if name is None else found | {"x-checks": [*found.get("x-checks", ()), name]}


def _validator(schema: Any) -> str | None:
    return _public_name(schema["function"]["function"])


def _public_name(function: Any) -> str | None:
    """Return the name of a validator or serializer; None for pydantic's own, whose effect JSON Schema contains."""
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    if (getattr(function, "__module__", None) or "").partition(".")[0] in {"pydantic", "pydantic_core"}:
        return None
    return str(getattr(function, "__qualname__", type(function).__qualname__))
