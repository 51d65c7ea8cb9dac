"""Transport of a contract: its signatures as models of pydantic, and their description as JSON Schema."""

import hashlib
import inspect
import json
import sys
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model
from typing_extensions import TypedDict  # pydantic needs it below Python 3.12

from kernel.ext.channel.channel import SharedModel
from kernel.ext.remote.schema import Schema, both_ways
from kernel.modules.contracts import Contract, ContractError, home_of, is_declared, methods_of

# Raised when descriptions change in a way that older versions of the kernel would misread.
_FORMAT = 2


class Described(TypedDict):
    """The description of a contract or message, as processes exchange it."""

    # Equal if the descriptions are.
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
        # Numbered, because models of pydantic reserve some names that an argument may have.
        fields: dict[str, Any] = {
            f"argument{number}": (hints[name], Field(self._default(name), alias=name))
            for number, name in enumerate(self._names)
        }
        # An argument that the other side does not know would change the meaning of the call.
        self.arguments: type[BaseModel] = create_model(self.call, __config__=ConfigDict(extra="forbid"), **fields)

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[bytes, str | None]:
        """Return the arguments as JSON, and the argument `idempotency_key`, with which the call may be repeated.

        Omitted arguments are not sent: the provider applies its own defaults. Raises TypeError for arguments that the
        signature does not accept.
        """
        given = self._signature.bind(*args, **kwargs).arguments
        fields = {f"argument{number}": given[name] for number, name in enumerate(self._names) if name in given}
        values = self.arguments.model_construct(**fields)
        try:
            body = values.model_dump_json(include=set(fields), by_alias=True, warnings="error").encode()
        except ValueError as error:
            raise TypeError(f"{self.call} was called with a value that its contract does not allow: {error}") from None
        key = given.get("idempotency_key")
        return body, key if isinstance(key, str) else None

    def decode(self, body: bytes) -> inspect.BoundArguments:
        """Return the arguments of a call. Raises ValidationError."""
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
        # Omitted arguments are not sent.
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
    """A contract that another process calls or provides."""

    contract: type[Contract]

    @property
    def name(self) -> str:
        return self.contract.__name__

    @cached_property
    def methods(self) -> dict[str, WireMethod]:
        """The methods by name."""
        return {name: WireMethod(self.contract, name) for name in methods_of(self.contract)}

    @cached_property
    def errors(self) -> dict[str, type[ContractError]]:
        """Return the errors that the contract declares, by name. They are defined in its file or package."""
        home = home_of(self.contract)
        files = [file for name, file in sorted(sys.modules.items()) if f"{name}.".startswith(f"{home}.")]
        values = [value for file in files for value in vars(file).values() if isinstance(value, type)]
        return {value.__name__: value for value in values if is_declared(value, self.contract)}

    @cached_property
    def description(self) -> Schema:
        """Return everything that both sides must agree on."""
        return {
            "format": _FORMAT,
            "version": self.contract.contract_version,
            "methods": {name: method.describe() for name, method in sorted(self.methods.items())},
            "errors": {name: both_ways(TypeAdapter(error.form())) for name, error in sorted(self.errors.items())},
        }


def description_of(shared: SharedModel) -> Schema:
    """Describe a message: what both sides must agree on, and the oldest version that can be read here."""
    return {
        "format": _FORMAT,
        "version": shared.version,
        "oldest": shared.oldest_version,
        "message": both_ways(TypeAdapter(shared.model)),
    }


def with_fingerprint(description: Schema) -> Described:
    """Return a description as processes exchange it."""
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"))
    return {"fingerprint": hashlib.sha256(canonical.encode()).hexdigest(), "description": description}


def describe(contracts: Iterable[WireContract], models: Iterable[SharedModel]) -> dict[str, Described]:
    """Describe contracts and messages, by their names."""
    named = {one.name: one.description for one in contracts} | {one.name: description_of(one) for one in models}
    return {name: with_fingerprint(description) for name, description in named.items()}
