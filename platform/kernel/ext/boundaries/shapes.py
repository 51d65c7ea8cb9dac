"""The classes of a contract in a form that the rules can check."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from kernel.ext.boundaries.sources import Source

# In JSON a NamedTuple is an array, and a TypedDict is read by its keys, so each is a kind of its own.
Kind = Literal["contract", "message", "value", "dataclass", "tuple", "dict", "enum", "error", "other"]
ParameterKind = Literal["positional", "keyword", "place", "many"]

VALUES = frozenset({"value", "dataclass", "tuple", "dict", "enum", "message"})
# Other modules use these by name, and each has a version.
ROOTS = frozenset({"contract", "message"})


@dataclass
class Member:
    """A parameter, a result or a field, with its type."""

    type: str
    # For parameters: by name or position, by name only, by position only, or any number.
    kind: ParameterKind = "positional"
    path: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)
    default: ast.expr | None = field(default=None, compare=False)


@dataclass
class Method:
    """A method of a contract."""

    parameters: dict[str, Member]
    result: Member


@dataclass
class Ancestor:
    """A class or one of its bases, and the values of its type variables."""

    source: Source
    node: ast.ClassDef
    given: Mapping[str, str]


@dataclass
class Shape:
    """A class of a contract, with the members that it inherits from readable classes."""

    kind: Kind
    # For an enum, its members, with their values in JSON as types.
    fields: dict[str, Member] = field(default_factory=dict)
    methods: dict[str, Method] = field(default_factory=dict)
    # Options of pydantic, as written.
    options: dict[str, str] = field(default_factory=dict)
    # The type variables.
    variables: list[str] = field(default_factory=list, compare=False)
    lineage: list[Ancestor] = field(default_factory=list, compare=False)
    # Bases that cannot be read and are not known to add nothing.
    unknown: list[str] = field(default_factory=list, compare=False)

    @property
    def path(self) -> str:
        return self.lineage[0].source.path

    @property
    def line(self) -> int:
        return self.lineage[0].node.lineno
