"""The classes of a contract in a form that the rules can judge."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from kernel.ext.boundaries.sources import Source

# A NamedTuple crosses as an array and a TypedDict is read by its keys, so they are kinds of their own.
Kind = Literal["contract", "message", "value", "dataclass", "tuple", "dict", "enum", "error", "other"]
ParameterKind = Literal["positional", "keyword", "place", "many"]

VALUES = frozenset({"value", "dataclass", "tuple", "dict", "enum", "message"})
# What others rely on by name, with a version of its own.
ROOTS = frozenset({"contract", "message"})


@dataclass
class Member:
    """A parameter, a result or a field, with its type."""

    type: str
    # Of parameters: by name or by place, by name only, by place only, or any number of them.
    kind: ParameterKind = "positional"
    path: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)
    default: ast.expr | None = field(default=None, compare=False)


@dataclass
class Method:
    """What can be asked."""

    parameters: dict[str, Member]
    result: Member


@dataclass
class Ancestor:
    """A class or a base of it, and what its type variables stand for."""

    source: Source
    node: ast.ClassDef
    given: Mapping[str, str]


@dataclass
class Shape:
    """A class of a contract, with what it inherits from classes that can be read."""

    kind: Kind
    # Of an enum its members, as type what they are on the wire.
    fields: dict[str, Member] = field(default_factory=dict)
    methods: dict[str, Method] = field(default_factory=dict)
    # Options of pydantic, as they are written.
    options: dict[str, str] = field(default_factory=dict)
    # Its type variables.
    variables: list[str] = field(default_factory=list, compare=False)
    lineage: list[Ancestor] = field(default_factory=list, compare=False)
    # Bases that cannot be read, and are not known to be harmless.
    unknown: list[str] = field(default_factory=list, compare=False)

    @property
    def path(self) -> str:
        return self.lineage[0].source.path

    @property
    def line(self) -> int:
        return self.lineage[0].node.lineno
