"""Changes of a contract that break its callers or subscribers, and changes that do not."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kernel.ext.boundaries import lock
from kernel.ext.boundaries.project import Project
from kernel.ext.messaging.message import Message
from kernel.ext.remote.wire import WireContract, description_of
from kernel.modules.contracts import Contract

pytestmark = pytest.mark.integration

Make = Callable[..., Project]
Describe = Callable[[str], Mapping[str, Any]]

HEAD = """
from __future__ import annotations
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, Flag, StrEnum, auto
from typing import Annotated, ClassVar, Generic, Literal, NamedTuple, NewType, Optional
from typing import TypeVar, Union
from typing_extensions import NotRequired, TypedDict
from annotated_types import Ge
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, RootModel, StringConstraints, computed_field
from pydantic import Field as F
from kernel import Contract, ContractError, safe
from kernel.ext.messaging import Message
"""
CONTRACT = """
class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"

class Query(BaseModel, frozen=True):
    words: str
    limit: int = 10

class Info(BaseModel, frozen=True):
    id: int
    name: str
    colour: Colour

class Deleted(Message):
    id: int

class NotThere(ContractError): ...

class TooMany(ContractError):
    limit: int

class Things(Contract):
    @safe
    async def get(self, thing_id: int) -> Info | None: ...
    async def find(self, query: Query, page: int = 1) -> list[Info]: ...
    async def paint(self, thing_id: int, colour: Literal["red", "blue"]) -> bool: ...
"""


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def project(contract: str, module: str = "things") -> Project:
        folder = tmp_path / "modules" / module
        folder.mkdir(parents=True, exist_ok=True)
        (tmp_path / "modules" / "__init__.py").touch()
        (folder / "__init__.py").touch()
        (folder / "module.py").write_text('from kernel import Module\n\nmodule = Module(owner="team")\n')
        (folder / "contract.py").write_text(HEAD + contract)
        return Project(tmp_path)

    return project


@pytest.fixture
def describe(monkeypatch: pytest.MonkeyPatch) -> Describe:
    """Describe a contract in this process, which is faster than in another."""

    def described(contract: str) -> Mapping[str, Any]:
        module = ModuleType("modules.things.contract")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(HEAD + contract, vars(module))  # noqa: S102  # the texts below
        own = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
        contracts = {one.__name__: WireContract(one).description for one in own if Contract in one.__bases__}
        messages = {one.__name__: description_of(one.as_shared_model()) for one in own if issubclass(one, Message)}
        return contracts | messages

    return described


def changed(old: str, new: str) -> str:
    assert old in CONTRACT
    return CONTRACT.replace(old, new)


BREAKING = {
    "a method is gone": ("    async def paint", "    async def _paint"),
    "a method is renamed": ("async def find", "async def search"),
    "a parameter is gone": (", page: int = 1", ""),
    "a parameter is renamed": ("thing_id: int, colour", "id: int, colour"),
    "a parameter is new and required": ("get(self, thing_id: int)", "get(self, thing_id: int, deep: bool)"),
    "a parameter is required now": ("page: int = 1", "page: int"),
    "a parameter is by name only now": ("query: Query, page", "query: Query, *, page"),
    "parameters change places": (
        'thing_id: int, colour: Literal["red", "blue"]',
        'colour: Literal["red", "blue"], thing_id: int',
    ),
    "a parameter takes less": ('Literal["red", "blue"]', 'Literal["red"]'),
    "a parameter takes another type": ("get(self, thing_id: int)", "get(self, thing_id: str)"),
    "a parameter has a limit": ("get(self, thing_id: int)", "get(self, thing_id: Annotated[int, Field(ge=1)])"),
    "it may answer None": ("-> bool", "-> bool | None"),
    "it answers another type": ("-> list[Info]", "-> dict[str, Info]"),
    "its elements may be None": ("-> list[Info]", "-> list[Info | None]"),
    "it is not safe any more": ("    @safe\n", ""),
    "a field of an answer is gone": ("    name: str\n", ""),
    "a field of an answer is renamed": ("    name: str\n", "    title: str\n"),
    "a field of an answer may be None": ("    name: str\n", "    name: str | None\n"),
    "a field of an answer is wider": ("    id: int\n    name", "    id: float\n    name"),
    "a field of an argument takes less": ("    words: str\n", "    words: Annotated[str, Field(max_length=9)]\n"),
    "a limit by Field": ("    words: str\n", "    words: str = Field(max_length=9)\n"),
    "a field of an argument is required": ("limit: int = 10", "limit: int"),
    "a field of an argument is new and required": ("    words: str\n", "    words: str\n    deep: bool\n"),
    "a field of a message is gone": ("(Message):\n    id: int", "(Message):\n    name: str = ''"),
    "a field of a message may be None": ("(Message):\n    id: int", "(Message):\n    id: int | None"),
    "a field of a message is new and required": ("(Message):\n    id: int", "(Message):\n    id: int\n    by: str"),
    "a message is renamed": ("class Deleted", "class Removed"),
    "an answer may have an unknown colour": ('    RED = "red"\n', '    RED = "red"\n    GREEN = "green"\n'),
    "a parameter is by place only now": ("page: int = 1)", "page: int = 1, /)"),
    "an optional parameter stands before another": ("page: int = 1", "deep: bool = False, page: int = 1"),
    "a colour is written otherwise": ('RED = "red"', 'RED = "rouge"'),
    "a field of an answer has another name on the wire": ("    name: str\n", "    name: str = Field(alias='title')\n"),
    "a field of an answer does not cross": ("    name: str\n", "    name: str = Field(exclude=True)\n"),
    "a field is written by a serializer": ("    name: str\n", "    name: Annotated[str, PlainSerializer(len)]\n"),
    "a limit by Field under another name": ("    words: str\n", "    words: str = F(max_length=9)\n"),
    "a limit by a constraint": ("    words: str\n", "    words: Annotated[str, StringConstraints(max_length=9)]\n"),
    "an argument refuses unknown fields": ("Query(BaseModel, frozen=True", "Query(BaseModel, extra='forbid'"),
    "an answer has other names": ("Info(BaseModel, frozen=True", "Info(BaseModel, alias_generator=str.upper"),
    "a value is a tuple now": ("class Info(BaseModel, frozen=True)", "class Info(NamedTuple)"),
    "an error is gone": ("class NotThere(ContractError)", "class NotThere(Exception)"),
    "an error has a field less": ("    limit: int\n\nclass Things", "    pass\n\nclass Things"),
    "a field of a message takes less": ("(Message):\n    id: int", "(Message):\n    id: Annotated[int, Field(ge=1)]"),
    "a field of a message may be more": ("(Message):\n    id: int", "(Message):\n    id: float"),
    "a contract is a message now": ("class Things(Contract)", "class Things(Message)"),
}

COMPATIBLE = {
    "a value under another name": ("Info", "Facts"),
    "a tuple has one element now": ("-> list[Info]", "-> tuple[Info]"),
    "a colour is never answered any more": ('    BLUE = "blue"\n', ""),
    "a field of a message is new and optional": (
        "(Message):\n    id: int",
        "(Message):\n    id: int\n    by: str = ''",
    ),
    "a method is new": ("    async def find", "    async def count(self) -> int: ...\n    async def find"),
    "an optional parameter is new": ("page: int = 1", "page: int = 1, deep: bool = False"),
    "a parameter may be left out now": ("get(self, thing_id: int)", "get(self, thing_id: int = 0)"),
    "a parameter takes more": ('Literal["red", "blue"]', "str"),
    "a parameter takes None, too": ("get(self, thing_id: int)", "get(self, thing_id: int | None)"),
    "a number is wider": ("page: int = 1", "page: float = 1"),
    "it never answers None now": ("-> Info | None", "-> Info"),
    "it answers with less": ("-> bool", "-> Literal[True]"),
    "it is safe now": ("    async def find", "    @safe\n    async def find"),
    "a field of an argument is new and optional": ("    words: str\n", "    words: str\n    deep: bool = False\n"),
    "a field of an argument takes more": ("    words: str\n", "    words: str | None\n"),
    "a field of an answer is new and optional": ("    name: str\n", "    name: str\n    size: int = 0\n"),
    "a field of an answer has a limit": ("    name: str\n", "    name: Annotated[str, Field(max_length=9)]\n"),
    "an argument ignores one field more": (
        "    limit: int = 10\n",
        "    limit: int = 10\n    page: int | None = None\n",
    ),
    "a limit on an answer": ("    id: int\n    name", "    id: int = Field(ge=1)\n    name"),
    "a computed field": ("    name: str\n", "    name: str\n    @computed_field\n    def size(self) -> int: ...\n"),
    "by name and by place": ("get(self, thing_id: int)", "get(self, thing_id: int, *, deep: bool = False)"),
    "a new error": ("class NotThere", "class Other(ContractError): ...\n\nclass NotThere"),
    "a new message": ("class Deleted", "class Made(Message):\n    id: int\n\nclass Deleted"),
}

THE_SAME = {
    "an error that stays in its process": ("class NotThere", "class Other(Exception): ...\n\nclass NotThere"),
    "a value that is read by its keys": ("class Info(BaseModel, frozen=True)", "class Info(TypedDict)"),
    "an example": ("limit: int = 10", "limit: int = Field(10, json_schema_extra={'example': 3})"),
    "another default": ("limit: int = 10", "limit: int = 20"),
    "a docstring": ("class Things(Contract):\n", 'class Things(Contract):\n    """What others may ask."""\n'),
    "Optional": ("-> Info | None", "-> Optional[Info]"),
    "Union": ("-> Info | None", "-> Union[None, Info]"),
    "a string": ("-> Info | None", '-> "Info | None"'),
    "the order of the fields": ("    id: int\n    name: str\n", "    name: str\n    id: int\n"),
    "an alias": ("class Deleted", "Id = int\n\nclass Deleted"),
    "a description": ("limit: int = 10", 'limit: int = Field(10, description="at most")'),
    "a new type": (
        "class Deleted(Message):\n    id: int",
        'Id = NewType("Id", int)\n\nclass Deleted(Message):\n    id: Id',
    ),
    "a class attribute": ("    name: str\n", "    name: str\n    table: ClassVar[str] = 'things'\n"),
    "a private attribute": ("    name: str\n", "    name: str\n    _seen: int = 0\n"),
    "configuration that stays here": (
        "    name: str\n",
        "    model_config = ConfigDict(title='x', frozen=True)\n    name: str\n",
    ),
    "a title": ("    name: str\n", "    name: Annotated[str, Field(title='x', description='y')]\n"),
    "a class that no contract has": ("class Deleted", "class Other(BaseModel):\n    x: int\n\nclass Deleted"),
}


# A class before and after, and whether it goes in or out of a method.
BREAKING_CLASSES = {
    "a tuple has its fields in another order": (
        "class Extra(NamedTuple):\n    a: int\n    b: int",
        "class Extra(NamedTuple):\n    b: int\n    a: int",
        "out",
    ),
    "a tuple has a field in between": (
        "class Extra(NamedTuple):\n    a: int\n    b: int = 0",
        "class Extra(NamedTuple):\n    a: int\n    c: int = 0\n    b: int = 0",
        "out",
    ),
    "a key may be missing": (
        "class Extra(TypedDict):\n    a: int",
        "class Extra(TypedDict):\n    a: NotRequired[int]",
        "out",
    ),
    "all keys may be missing": (
        "class Extra(TypedDict):\n    a: int",
        "class Extra(TypedDict, total=False):\n    a: int",
        "out",
    ),
    "members that count change places": (
        "class Extra(Enum):\n    A = auto()\n    B = auto()",
        "class Extra(Enum):\n    B = auto()\n    A = auto()",
        "in",
    ),
    "the root is of another type": (
        "class Extra(RootModel[list[int]]): ...",
        "class Extra(RootModel[list[str]]): ...",
        "out",
    ),
    "a generic base is of another type": (
        "T = TypeVar('T')\nclass P(BaseModel, Generic[T]):\n    x: T\nclass Extra(P[int]): ...",
        "T = TypeVar('T')\nclass P(BaseModel, Generic[T]):\n    x: T\nclass Extra(P[str]): ...",
        "out",
    ),
    "a base changed": (
        "class P(BaseModel):\n    x: int\nclass Extra(P): ...",
        "class P(BaseModel):\n    x: str\nclass Extra(P): ...",
        "out",
    ),
    "a limit that is a constant": (
        "MAX = 9\nExtra = Annotated[str, Field(max_length=MAX)]",
        "MAX = 5\nExtra = Annotated[str, Field(max_length=MAX)]",
        "in",
    ),
    "a note that is a constant": (
        "Short = StringConstraints(max_length=9)\nExtra = Annotated[str, Short]",
        "Short = StringConstraints(max_length=5)\nExtra = Annotated[str, Short]",
        "in",
    ),
    "an answer may be longer": (
        "Extra = Annotated[str, Field(max_length=9)]",
        "Extra = Annotated[str, Field(max_length=20)]",
        "out",
    ),
    "an alias takes less": ("Extra = int | str", "Extra = int", "in"),
    "a field of a dataclass is gone": (
        "@dataclass(frozen=True)\nclass Extra:\n    a: int\n    b: int = field(default=0)",
        "@dataclass(frozen=True)\nclass Extra:\n    a: int",
        "out",
    ),
    "any number of elements becomes one": ("Extra = tuple[int, ...]", "Extra = tuple[int]", "in"),
    "two elements become three": ("Extra = tuple[int, int]", "Extra = tuple[int, int, int]", "in"),
    "a date is a moment": ("Extra = dt.date", "Extra = dt.datetime", "out"),
    "the keys are others": ("Extra = dict[str, int]", "Extra = dict[int, int]", "in"),
    "a limit that is computed": (
        "M = 4\nExtra = Annotated[str, Field(max_length=M * 2)]",
        "M = 2\nExtra = Annotated[str, Field(max_length=M * 2)]",
        "in",
    ),
    "a pattern that is composed": (
        "D = '[0-9]'\nExtra = Annotated[str, Field(pattern=f'^{D}+$')]",
        "D = '[1-9]'\nExtra = Annotated[str, Field(pattern=f'^{D}+$')]",
        "in",
    ),
    "a member of an enum by a constant": (
        "RED = 'red'\nclass Extra(StrEnum):\n    A = RED",
        "RED = 'rouge'\nclass Extra(StrEnum):\n    A = RED",
        "in",
    ),
    "a literal of the member of an enum": (
        "class E(StrEnum):\n    A = 'a'\nExtra = Literal[E.A]",
        "class E(StrEnum):\n    A = 'b'\nExtra = Literal[E.A]",
        "in",
    ),
    "a configuration that is shared": (
        "SHARED = ConfigDict()\nclass Extra(BaseModel):\n    model_config = SHARED\n    a: int",
        "SHARED = ConfigDict(extra='forbid')\nclass Extra(BaseModel):\n    model_config = SHARED\n    a: int",
        "in",
    ),
    "a field of a value whose readers refuse unknown fields": (
        "class Extra(BaseModel, extra='forbid'):\n    a: int",
        "class Extra(BaseModel, extra='forbid'):\n    a: int\n    b: int = 0",
        "out",
    ),
    "a tuple has a field at its end": (
        "class Extra(NamedTuple):\n    a: int",
        "class Extra(NamedTuple):\n    a: int\n    b: int = 0",
        "out",
    ),
    "a moment must have a zone": (
        "Extra = dt.datetime",
        "from pydantic import AwareDatetime\nExtra = AwareDatetime",
        "in",
    ),
    "deep in a container": ("Extra = dict[str, list[int]]", "Extra = dict[str, list[int | None]]", "out"),
}
COMPATIBLE_CLASSES = {
    "an argument may be longer": (
        "Extra = Annotated[str, Field(max_length=9)]",
        "Extra = Annotated[str, Field(max_length=20)]",
        "in",
    ),
    "a limit fell": ("Extra = Annotated[int, Ge(1)]", "Extra = int", "in"),
    "any number of elements": ("Extra = tuple[int, int]", "Extra = tuple[int, ...]", "in"),
    "True is a number": ("Extra = bool", "Extra = int", "in"),
    "a member more that is only taken": (
        "class Extra(Flag):\n    A = 1",
        "class Extra(Flag):\n    A = 1\n    B = 2",
        "in",
    ),
    "unknown fields are ignored": (
        "class Extra(BaseModel, extra='forbid'):\n    a: int",
        "class Extra(BaseModel):\n    a: int",
        "in",
    ),
    "a key more that may be missing": (
        "class Extra(TypedDict):\n    a: int",
        "class Extra(TypedDict):\n    a: int\n    b: NotRequired[int]",
        "out",
    ),
    "a tuple takes a field more at its end": (
        "class Extra(NamedTuple):\n    a: int",
        "class Extra(NamedTuple):\n    a: int\n    b: int = 0",
        "in",
    ),
    "other keys that are texts in JSON": ("Extra = dict[str, str]", "Extra = dict[int, str]", "out"),
    "a literal None": ("Extra = Literal['a', None]", "Extra = Literal['a'] | None", "out"),
}
THE_SAME_CLASSES = {
    "any sequence": ("Extra = tuple[int, ...]", "Extra = Sequence[int]"),
    "two ways to limit": (
        "Extra = Annotated[int, Ge(1), Field(le=9)]",
        "Extra = Annotated[int, Field(le=9, ge=1, description='x')]",
    ),
    "an alias of a limit": ("Extra = Annotated[int, Field(ge=1)]", "P = Annotated[int, Field(ge=1)]\nExtra = P"),
    "fields from a base": (
        "class Extra(BaseModel):\n    a: int\n    b: int",
        "class P(BaseModel):\n    a: int\nclass Extra(P):\n    b: int",
    ),
    "a name in capitals": (
        "class Extra(StrEnum):\n    RED = 'red'",
        "class Extra(StrEnum):\n    RED = auto()",
    ),
}


def with_class(text: str, way: str) -> str:
    method = "def extra(self) -> Extra" if way == "out" else "def extra(self, it: Extra) -> int"
    return f"{text}\n{CONTRACT}    async {method}: ...\n"


def only(found: Mapping[str, lock.Changes]) -> lock.Changes:
    [changes] = found.values()
    return changes


@pytest.mark.parametrize("change", BREAKING)
def test_a_breaking_change_needs_a_new_version(describe: Describe, change: str) -> None:
    found = lock.compare(describe(CONTRACT), describe(changed(*BREAKING[change])))
    assert any(changes.broken for changes in found.values()), found


@pytest.mark.parametrize("change", BREAKING_CLASSES)
def test_a_class_that_breaks_needs_a_new_version_of_the_contract(describe: Describe, change: str) -> None:
    before, after, way = BREAKING_CLASSES[change]
    found = lock.compare(describe(with_class(before, way)), describe(with_class(after, way)))
    assert found.keys() == {"Things"}
    assert only(found).broken, found


@pytest.mark.parametrize("change", COMPATIBLE_CLASSES)
def test_a_class_may_change_in_the_direction_in_which_it_is_sent(describe: Describe, change: str) -> None:
    before, after, way = COMPATIBLE_CLASSES[change]
    old = describe(with_class(before, way))
    assert not only(lock.compare(old, describe(with_class(after, way)))).broken
    other = describe(with_class("class Extra(BaseModel):\n    other: int", way))
    assert only(lock.compare(old, other)).broken


@pytest.mark.parametrize("change", THE_SAME_CLASSES)
@pytest.mark.parametrize("way", ["in", "out"])
def test_two_ways_to_write_a_class_are_equal(describe: Describe, change: str, way: str) -> None:
    before, after = THE_SAME_CLASSES[change]
    assert lock.as_json(describe(with_class(before, way))) == lock.as_json(describe(with_class(after, way)))


@pytest.mark.parametrize("change", COMPATIBLE)
def test_a_compatible_change_only_needs_a_new_lock(describe: Describe, change: str) -> None:
    found = lock.compare(describe(CONTRACT), describe(changed(*COMPATIBLE[change])))
    assert found
    assert not [changes.broken for changes in found.values() if changes.broken], found


@pytest.mark.parametrize("change", THE_SAME)
def test_an_equivalent_contract_is_no_change(describe: Describe, change: str) -> None:
    before, after = describe(CONTRACT), describe(changed(*THE_SAME[change]))
    assert lock.compare(before, after) == {}


def test_with_a_new_version_a_breaking_change_may_be_locked(describe: Describe) -> None:
    before = describe(CONTRACT)
    raised = describe(changed("-> bool", "-> str").replace("(Contract)", "(Contract, version=1 + 1)"))
    changes = only(lock.compare(before, raised))
    assert changes.broken == []
    assert [one.text for one in changes.listed] == [
        "its version was raised from 1 to 2",
        "Things.paint, result: it is sent as string and read as boolean",
    ]
    assert only(lock.compare(raised, before)).broken[0] == "its version went down from 2 to 1"


def test_a_new_version_of_a_message_must_read_stored_rows(make: Make) -> None:
    raised = CONTRACT.replace("class Deleted(Message)", "class Deleted(Message, version=3)")
    project = make(
        raised + "from kernel.ext.messaging import upcast\n@upcast(Deleted, from_version=2)\ndef two(p): return p\n"
    )
    [gap] = [found for found in lock.check(project) if "stored messages" in found.why]
    assert gap.why == "things.Deleted is version 3, but cannot read stored messages of version 1."
    assert gap.instead == "Write `@upcast(Deleted, from_version=1)` beside the message."
    with pytest.raises(lock.LockError, match="cannot read stored messages of version 1"):
        lock.write(project)


def test_a_validator_without_a_name_is_reported(make: Make) -> None:
    project = make(
        "from pydantic import AfterValidator\n"
        "class Deleted(Message):\n    id: Annotated[int, AfterValidator(lambda value: value)]\n"
    )
    with pytest.raises(lock.LockError, match="has no name and cannot be compared"):
        lock.write(project)


def test_a_contract_that_cannot_be_evaluated_is_reported(make: Make) -> None:
    lock.write(make(CONTRACT))
    project = make(changed("class Info(BaseModel", "class Facts(BaseModel"))
    [found] = lock.check(project)
    assert "Things cannot be described: NameError: name 'Info' is not defined" in found.why
    project = make("raise OSError('no disk')\n")
    [found] = lock.check(project)
    assert "modules/things/contract.py cannot be imported: OSError: no disk" in found.why
    with pytest.raises(lock.LockError, match="no disk"):
        lock.write(project)


def test_a_contract_that_ends_its_process_is_reported(make: Make) -> None:
    [found] = lock.check(make("import os\nos._exit(3)\n"))
    assert "ended the process with exit code 3" in found.why


def test_a_breaking_value_is_reported_for_each_contract_that_uses_it(make: Make) -> None:
    lock.write(make(CONTRACT))
    [found] = lock.check(make(changed("    name: str\n", "")))
    assert (found.path, found.rule) == ("modules/things/contract.py", "contract-lock")
    assert found.why.startswith("things.Things breaks code that relies on its locked version: Things.find, result:")
    assert "name is required, but is not sent" in found.why
    assert "version=2" in found.instead


def test_only_a_compatible_change_is_locked(make: Make) -> None:
    lock.write(make(CONTRACT))
    with pytest.raises(lock.LockError, match="Nothing was locked"):
        lock.write(make(changed("    name: str\n", "")))
    project = make(changed("page: int = 1", "page: int = 1, deep: bool = False"))
    [found] = lock.check(project)
    assert "differs from its lock" in found.why
    assert found.instead == "Run `kernel contracts lock`, and commit what it writes."
    lock.write(project)
    assert list(lock.check(project)) == []


def test_a_contract_can_be_dropped_with_the_option(make: Make) -> None:
    lock.write(make(CONTRACT))
    project = make(CONTRACT.partition("class Things")[0])
    with pytest.raises(lock.LockError, match="--drop"):
        lock.write(project)
    lock.write(project, {"things.Things"})
    assert list(lock.check(project)) == []


def test_a_class_may_move_between_the_files_of_a_contract(make: Make) -> None:
    project = make(CONTRACT)
    lock.write(project)
    folder = project.root / "modules" / "things"
    (folder / "contract.py").unlink()
    (folder / "contract").mkdir()
    values, _, rest = CONTRACT.partition("class Deleted")
    (folder / "contract" / "values.py").write_text(HEAD + values)
    home = "from modules.things.contract.values import Colour, Info, Query\n"
    (folder / "contract" / "__init__.py").write_text(f"{HEAD}{home}class Deleted{rest}")
    assert list(lock.check(Project(project.root))) == []


@pytest.mark.parametrize("text", ["<<<<<<< HEAD\n{}", "[]", '{"Things": {}}'])
def test_a_broken_lock_is_a_finding(make: Make, text: str) -> None:
    project = make(CONTRACT)
    lock.place(project.root, "things").write_text(text)
    [found] = lock.check(project)
    assert (found.path, found.rule) == ("modules/things/contract.lock.json", "contract-lock")
    with pytest.raises(lock.LockError, match="cannot be read"):
        lock.write(project)


def test_a_key_that_a_merge_left_twice_is_a_finding(make: Make) -> None:
    project = make(CONTRACT)
    lock.place(project.root, "things").write_text('{"Things": {}, "Things": {}}')
    [found] = lock.check(project)
    assert "'Things' is there twice" in found.why


def test_a_lock_of_another_format_is_a_difference(describe: Describe) -> None:
    new = describe(CONTRACT)
    old = {name: one | {"format": 1} for name, one in new.items()}
    assert all("delete the lock" in changes.broken[0] for changes in lock.compare(old, new).values())


def test_deleting_the_whole_contract_of_a_module_needs_the_option(make: Make) -> None:
    lock.write(make(CONTRACT))
    project = make("")
    found = list(lock.check(project))
    assert ["breaks code that relies on its locked version: it is gone" in one.why for one in found] == [True, True]
    with pytest.raises(lock.LockError, match="--drop"):
        lock.write(project)
    lock.write(project, {"things.Things", "things.Deleted"})
    assert not lock.place(project.root, "things").exists()


ASKS = "import modules.other.contract as other\n\nclass Things(Contract):\n    async def get(self) -> other.Info: ...\n"


def test_a_value_of_another_module_is_locked_with_the_contract_that_uses_it(make: Make) -> None:
    make("class Info(BaseModel):\n    id: int\n", "other")
    lock.write(make(ASKS))
    make("class Info(BaseModel):\n    name: str\n", "other")
    [found] = lock.check(make(ASKS))
    assert found.path == "modules/things/contract.py"
    assert "things.Things breaks code" in found.why
    assert "id is required, but is not sent" in found.why


def test_the_difference_is_explained_member_by_member(make: Make) -> None:
    lock.write(make(CONTRACT))
    text = changed("-> bool", "-> str").replace("page: int = 1", "page: int | None = 1, deep: bool = False")
    assert lock.explain(make(text)) == [
        "things.Things: Things.find, arguments: deep is not sent (compatible)",
        "things.Things: Things.paint, result: it is sent as string and read as boolean (BREAKING: raise its version)",
    ]
    raised = lock.explain(make(text.replace("(Contract)", "(Contract, version=2)")))
    assert raised[0] == "things.Things: its version was raised from 1 to 2 (compatible)"
    assert raised[-1].endswith("(breaking, and its version was raised)")


def test_a_contract_without_a_lock_is_a_finding(make: Make) -> None:
    assert {"things.Things", "things.Deleted"} == {one.why.split()[0] for one in lock.check(make(CONTRACT))}


def test_the_lock_does_not_depend_on_the_order_of_the_classes(make: Make) -> None:
    project = make(CONTRACT)
    lock.write(project)
    text = lock.place(project.root, "things").read_text()
    head, _, tail = CONTRACT.partition("class Deleted")
    assert lock.write(make(f"class Deleted{tail}{head}")) == "The locks are up to date: 2 contract(s) and message(s)."
    assert json.loads(text).keys() == {"Things", "Deleted"}
