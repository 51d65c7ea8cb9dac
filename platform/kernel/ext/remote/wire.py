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
from typing_extensions import TypedDict  # pydantic needs it below Python 3.12

from kernel.ext.messaging.message import Message
from kernel.ext.remote.schema import Schema, both_ways
from kernel.modules.contracts import Contract, ContractError, home_of, is_declared, methods_of

# Raised when descriptions change in a way that older versions of the kernel would misread.
_FORMAT = 2


class Described(TypedDict):
    """A contract or message as one side tells the other."""

    fingerprint: str
    description: Schema


# By the names of the contracts and messages.
DESCRIBED: TypeAdapter[dict[str, Described]] = TypeAdapter(dict[str, Described])


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
        """Describe what both sides must agree on."""
        arguments = both_ways(TypeAdapter(self.arguments))
        # What the caller leaves out is not sent.
        arguments["sent"]["required"] = sorted(name for name in self._names if self._default(name) is ...)
        kinds = {name: one.kind for name, one in self._signature.parameters.items()}
        return {
            "safe": self.is_safe,
            "positional": [name for name, kind in kinds.items() if kind is not inspect.Parameter.KEYWORD_ONLY],
            "named": sorted(name for name, kind in kinds.items() if kind is not inspect.Parameter.POSITIONAL_ONLY),
            "arguments": arguments,
            "result": both_ways(self.result),
        }

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
        return _described(self.description)

    @cached_property
    def description(self) -> Schema:
        """All that both sides must agree on."""
        return {
            "format": _FORMAT,
            "version": self.contract.contract_version,
            "methods": {name: method.describe() for name, method in sorted(self.methods.items())},
            "errors": {name: both_ways(TypeAdapter(error.form())) for name, error in sorted(self.errors.items())},
        }


@dataclass(frozen=True)
class WireMessage:
    """A message, ready to be compared with that of another process."""

    message: type[Message]

    @property
    def name(self) -> str:
        return self.message.__name__

    @cached_property
    def described(self) -> Described:
        """The description and its fingerprint, which is equal where the descriptions are."""
        return _described(self.description)

    @cached_property
    def description(self) -> Schema:
        """All that both sides must agree on, and the oldest version that can be read here."""
        return {
            "format": _FORMAT,
            "version": self.message.message_version,
            "oldest": self.message.oldest_readable_version(),
            "message": both_ways(TypeAdapter(self.message)),
        }


def _described(description: Schema) -> Described:
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"))
    return {"fingerprint": hashlib.sha256(canonical.encode()).hexdigest(), "description": description}
