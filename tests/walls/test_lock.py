"""What breaks those who rely on a contract, and what does not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from walls import lock
from walls.project import Project

Make = Callable[[str], Project]

HEAD = """
from __future__ import annotations
import datetime as dt
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal, Optional, Union
from pydantic import BaseModel, Field
from kernel import Contract, Message, safe
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

class Things(Contract):
    @safe
    async def get(self, thing_id: int) -> Info | None: ...
    async def find(self, query: Query, page: int = 1) -> list[Info]: ...
    async def paint(self, thing_id: int, colour: Literal["red", "blue"]) -> bool: ...
"""


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def project(contract: str) -> Project:
        folder = tmp_path / "modules" / "things"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "module.py").write_text('from kernel import Module\n\nmodule = Module(owner="team")\n')
        (folder / "contract.py").write_text(HEAD + contract)
        return Project(tmp_path)

    return project


def changed(old: str, new: str) -> str:
    assert old in CONTRACT
    return CONTRACT.replace(old, new)


BREAKING = {
    "a method is gone": ("    async def paint", "    async def _paint"),
    "a method is renamed": ("async def find", "async def search"),
    "a parameter is gone": (", page: int = 1", ""),
    "a parameter is renamed": ("thing_id: int, colour", "id: int, colour"),
    "a parameter is new and demanded": ("get(self, thing_id: int)", "get(self, thing_id: int, deep: bool)"),
    "a parameter is demanded now": ("page: int = 1", "page: int"),
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
    "a field of an argument is demanded": ("limit: int = 10", "limit: int"),
    "a field of an argument is new and demanded": ("    words: str\n", "    words: str\n    deep: bool\n"),
    "a field of a message is gone": ("(Message):\n    id: int", "(Message):\n    name: str = ''"),
    "a field of a message may be None": ("(Message):\n    id: int", "(Message):\n    id: int | None"),
    "a field of a message is new and demanded": ("(Message):\n    id: int", "(Message):\n    id: int\n    by: str"),
    "a message is renamed": ("class Deleted", "class Removed"),
    "a colour is gone": ('    BLUE = "blue"\n', ""),
    "an answer may have a colour that nobody knows": ('    RED = "red"\n', '    RED = "red"\n    GREEN = "green"\n'),
    "a contract is a message now": ("class Things(Contract)", "class Things(Message)"),
}

COMPATIBLE = {
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
    "a new message": ("class Deleted", "class Made(Message):\n    id: int\n\nclass Deleted"),
}

THE_SAME = {
    "a docstring": ("class Things(Contract):\n", 'class Things(Contract):\n    """What others may ask."""\n'),
    "Optional": ("-> Info | None", "-> Optional[Info]"),
    "Union": ("-> Info | None", "-> Union[None, Info]"),
    "a string": ("-> Info | None", '-> "Info | None"'),
    "the order of the fields": ("    id: int\n    name: str\n", "    name: str\n    id: int\n"),
    "an alias": ("class Deleted", "Id = int\n\nclass Deleted"),
    "a description": ("limit: int = 10", 'limit: int = Field(10, description="at most")'),
    "a class that no contract has": ("class Deleted", "class Other(BaseModel):\n    x: int\n\nclass Deleted"),
}


@pytest.mark.parametrize("change", BREAKING)
def test_a_breaking_change_needs_a_new_version(make: Make, change: str) -> None:
    lock.write(make(CONTRACT))
    project = make(changed(*BREAKING[change]))
    broken = [found for found in lock.check(project) if "breaks those who rely on it" in found.why]
    assert broken, lock.explain(project)
    assert all(found.path == "modules/things/contract.py" for found in broken)
    with pytest.raises(lock.LockError, match="Nothing was locked"):
        lock.write(project)


@pytest.mark.parametrize("change", COMPATIBLE)
def test_a_compatible_change_needs_only_to_be_locked(make: Make, change: str) -> None:
    lock.write(make(CONTRACT))
    project = make(changed(*COMPATIBLE[change]))
    found = list(lock.check(project))
    assert found
    assert all("breaks those" not in one.why and "kernel contracts lock" in one.instead for one in found), found
    lock.write(project)
    assert list(lock.check(project)) == []


@pytest.mark.parametrize("change", THE_SAME)
def test_what_says_the_same_is_no_change(make: Make, change: str) -> None:
    lock.write(make(CONTRACT))
    assert list(lock.check(make(changed(*THE_SAME[change])))) == []


def test_with_a_new_version_a_breaking_change_may_be_locked(make: Make) -> None:
    lock.write(make(CONTRACT))
    new = make(changed("-> bool", "-> str").replace("(Contract)", "(Contract, version=2)"))
    assert ["is not as it is locked" in one.why for one in lock.check(new)] == [True]
    lock.write(new)
    assert list(lock.check(new)) == []
    [lower] = lock.check(make(changed("-> bool", "-> str")))
    assert "went down from 2 to 1" in lower.why


def test_a_value_that_breaks_names_each_contract_that_hands_it_out(make: Make) -> None:
    lock.write(make(CONTRACT))
    [found] = lock.check(make(changed("    name: str\n", "")))
    assert "things.Things breaks those who rely on it: Info.name is gone" in found.why
    assert "version=2" in found.instead


def test_a_contract_may_be_dropped_when_that_is_said(make: Make) -> None:
    lock.write(make(CONTRACT))
    project = make(CONTRACT.partition("class Things")[0])
    with pytest.raises(lock.LockError, match="--drop"):
        lock.write(project)
    lock.write(project, frozenset({"things.Things"}))
    assert list(lock.check(project)) == []


def test_the_contracts_of_a_deleted_module_go_with_it(make: Make) -> None:
    project = make(CONTRACT)
    lock.write(project)
    for file in (project.root / "modules" / "things").iterdir():
        file.unlink()
    (project.root / "modules" / "things").rmdir()
    project = Project(project.root)
    assert ["it is gone" in one.why for one in lock.check(project)] == [True, True]
    lock.write(project)
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


@pytest.mark.parametrize("text", ["<<<<<<< HEAD\n{}", "[]", '{"things": {"Things": {}}}'])
def test_a_broken_lock_is_a_finding(make: Make, text: str) -> None:
    project = make(CONTRACT)
    (project.root / lock.FILE).write_text(text)
    [found] = lock.check(project)
    assert (found.path, found.rule) == ("contracts.lock.json", "contract-lock")
    with pytest.raises(lock.LockError, match="cannot be read"):
        lock.write(project)


def test_what_was_never_locked_is_a_finding(make: Make) -> None:
    assert {"things.Things", "things.Deleted"} == {one.why.split()[0] for one in lock.check(make(CONTRACT))}


def test_the_lock_is_the_same_whatever_the_order_of_the_classes(make: Make) -> None:
    project = make(CONTRACT)
    lock.write(project)
    text = (project.root / lock.FILE).read_text()
    head, _, tail = CONTRACT.partition("class Deleted")
    assert lock.write(make(f"class Deleted{tail}{head}")).endswith("up to date: 2 contract(s) and message(s).")
    assert json.loads(text).keys() == {"things"}
