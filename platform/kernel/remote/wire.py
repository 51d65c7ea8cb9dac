"""How a contract crosses: what its signatures say, as models of pydantic, and their description as JSON Schema."""

import hashlib
import inspect
import json
import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema
from typing_extensions import TypedDict  # pydantic needs it below Python 3.12

from kernel.contracts import Contract, ContractError, home_of, is_declared, methods_of

# Words for people: they may change and nothing else changes.
_ANNOTATIONS = frozenset({"title", "description", "examples", "deprecated"})
_BY_NAME = frozenset({"properties", "$defs"})
_VALUES = frozenset({"default", "const", "enum"})

Schema = dict[str, Any]


class Described(TypedDict):
    """A contract as one side tells the other."""

    fingerprint: str
    description: Schema


# By the names of the contracts.
DESCRIBED: TypeAdapter[dict[str, Described]] = TypeAdapter(dict[str, Described])


class _Schemas(GenerateJsonSchema):
    """What is written always has all its fields, also those that whoever makes it may leave to their default."""

    def field_is_required(
        self,
        field: core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField,
        total: bool,
    ) -> bool:
        if self.mode == "serialization" and field["type"] != "typed-dict-field":
            return not field.get("serialization_exclude")
        return super().field_is_required(field, total)


class WireMethod:
    """One method: its arguments as one JSON object, its result as one JSON value."""

    def __init__(self, contract: type[Contract], name: str) -> None:
        method = methods_of(contract)[name]
        hints = get_type_hints(method, include_extras=True)
        self.name = name
        self.call = f"{contract.__name__}.{name}"
        _self, *parameters = inspect.signature(method).parameters.values()
        self._signature = inspect.Signature(parameters)
        self.is_safe: bool = getattr(method, "__kernel_safe__", False)
        self._names = [parameter.name for parameter in parameters]
        self.result: TypeAdapter[Any] = TypeAdapter(hints["return"])
        # Numbered, because an argument may have a name that models of pydantic keep for themselves.
        fields: dict[str, Any] = {
            f"argument{number}": (hints[name], Field(self._default(name), alias=name))
            for number, name in enumerate(self._names)
        }
        # An argument that the other side does not know would change what is asked.
        self.arguments: type[BaseModel] = create_model(self.call, __config__=ConfigDict(extra="forbid"), **fields)

    def written(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[bytes, str | None]:
        """The arguments as JSON, and the idempotency key among them: what carries one may be asked twice.

        Those left out stay out: their defaults are the owner's. Raises TypeError for what the signature does not take.
        """
        given = self._signature.bind(*args, **kwargs).arguments
        fields = {f"argument{number}": given[name] for number, name in enumerate(self._names) if name in given}
        values = self.arguments.model_construct(**fields)
        try:
            body = values.model_dump_json(include=set(fields), by_alias=True, warnings="error").encode()
        except ValueError as error:
            raise TypeError(f"{self.call} was asked with what its contract does not allow: {error}") from None
        key = given.get("idempotency_key")
        return body, key if isinstance(key, str) else None

    def read(self, body: bytes) -> inspect.BoundArguments:
        """The arguments, to be called with. Raises ValidationError."""
        values = self.arguments.model_validate_json(body)
        given = {
            name: getattr(values, f"argument{number}")
            for number, name in enumerate(self._names)
            if f"argument{number}" in values.model_fields_set
        }
        return inspect.BoundArguments(self._signature, OrderedDict(given))

    def describe(self) -> Schema:
        """What the other side must agree on."""
        arguments = _both_ways(TypeAdapter(self.arguments))
        arguments["sent"]["required"] = [name for name in self._names if self._default(name) is ...]
        return {"safe": self.is_safe, "arguments": arguments, "result": _both_ways(self.result)}

    def _default(self, name: str) -> Any:
        default = self._signature.parameters[name].default
        return ... if default is inspect.Parameter.empty else default


@dataclass(frozen=True)
class WireContract:
    """A contract, ready to be asked and answered from another process."""

    contract: type[Contract]

    @property
    def name(self) -> str:
        return self.contract.__name__

    @cached_property
    def methods(self) -> dict[str, WireMethod]:
        """By name."""
        return {name: WireMethod(self.contract, name) for name in methods_of(self.contract)}

    @cached_property
    def errors(self) -> dict[str, type[ContractError]]:
        """The errors that the contract declares, by name: they stand in its file or package."""
        home = home_of(self.contract)
        files = [file for name, file in sorted(sys.modules.items()) if f"{name}.".startswith(f"{home}.")]
        values = [value for file in files for value in vars(file).values() if isinstance(value, type)]
        return {value.__name__: value for value in values if is_declared(value, self.contract)}

    @cached_property
    def described(self) -> Described:
        """The description and its fingerprint, which is equal where the descriptions are."""
        canonical = json.dumps(self.description, sort_keys=True, separators=(",", ":"))
        return {"fingerprint": hashlib.sha256(canonical.encode()).hexdigest(), "description": self.description}

    @cached_property
    def description(self) -> Schema:
        """All that both sides must agree on."""
        return {
            "version": self.contract.contract_version,
            "methods": {name: method.describe() for name, method in sorted(self.methods.items())},
            "errors": {name: _both_ways(TypeAdapter(error.form())) for name, error in sorted(self.errors.items())},
        }


def _both_ways(adapter: TypeAdapter[Any]) -> Schema:
    """A value as it is sent, and as it is accepted."""
    return {
        "sent": _without_words(adapter.json_schema(mode="serialization", schema_generator=_Schemas)),
        "accepted": _without_words(adapter.json_schema(mode="validation", schema_generator=_Schemas)),
    }


def _without_words(schema: Any, *, by_name: bool = False) -> Any:
    """The schema without titles and descriptions. `by_name`: its keys are names, `title` among them perhaps."""
    if isinstance(schema, list):
        return [_without_words(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value if key in _VALUES and not by_name else _without_words(value, by_name=key in _BY_NAME and not by_name)
        for key, value in schema.items()
        if by_name or key not in _ANNOTATIONS
    }
