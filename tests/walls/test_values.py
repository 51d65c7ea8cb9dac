"""What may cross from one module to another, and what may not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from walls import values
from walls.findings import Finding
from walls.project import Project

Check = Callable[..., list[Finding]]

HEAD = """
import datetime as dt
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Optional
from uuid import UUID
from fastapi import Request, UploadFile
from pydantic import BaseModel, EmailStr, Field
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession
from kernel import Contract, Message
from kernel.database import Page
from kernel.fields import Id
from modules.other.contract import Colour
from modules.other.models import Entity
from modules.things.models import Thing

class Info(BaseModel, frozen=True):
    id: Id
    at: dt.datetime | None
    tags: tuple[str, ...] = ()
"""


@pytest.fixture
def check(tmp_path: Path) -> Check:
    def findings(contract: str) -> list[Finding]:
        for name, text in (
            ("things", HEAD + contract),
            ("other", "from enum import Enum\nclass Colour(Enum):\n    A = 1\n"),
        ):
            folder = tmp_path / "modules" / name
            folder.mkdir(parents=True)
            (folder / "module.py").write_text('from kernel import Module\n\nmodule = Module(owner="team")\n')
            (folder / "contract.py").write_text(text)
        return list(values.check(Project(tmp_path)))

    return findings


@pytest.mark.parametrize(
    "type_",
    [
        "Thing",
        "Entity",
        "list[Thing]",
        "dict[str, Thing | None]",
        "'Thing'",
        "Optional[Thing]",
        "Annotated[Thing, 1]",
        "Page[Info]",
        "Row",
        "AsyncSession",
        "Request",
        "UploadFile",
        "Any",
        "object",
        "dict[str, Any]",
        "BaseModel",
        "Callable[[int], int]",
        "AsyncIterator[int]",
        "Contract",
        "somewhere.Unknown",
    ],
)
@pytest.mark.parametrize("place", ["argument", "result", "field"])
def test_what_cannot_cross_a_wire_is_refused(check: Check, type_: str, place: str) -> None:
    code = {
        "argument": f"class Things(Contract):\n    async def do(self, it: {type_}) -> int: ...\n",
        "result": f"class Things(Contract):\n    async def do(self) -> {type_}: ...\n",
        "field": f"class Given(BaseModel):\n    it: {type_}\n",
    }[place]
    found = check(code)
    assert found
    assert {one.rule for one in found} == {"values-only"}
    assert {one.line for one in found} == {(HEAD + code).count("\n")}


@pytest.mark.parametrize(
    "type_",
    [
        "int",
        "str | None",
        "Info",
        "list[Info]",
        "dict[str, Sequence[Info]]",
        "Mapping[UUID, dt.date]",
        "Literal['Thing', 'AsyncSession']",
        "Annotated[int, Field(ge=1)]",
        "Colour",
        "EmailStr",
        "Id",
        "Path",
        "'Info | None'",
        "bytes",
        "tuple[int, ...]",
        "Pair",
        "Point",
    ],
)
def test_plain_values_pass(check: Check, type_: str) -> None:
    own = "class Pair(NamedTuple):\n    a: int\n\n@dataclass(frozen=True)\nclass Point:\n    x: float\n\n"
    assert check(f"{own}class Things(Contract):\n    async def do(self, it: {type_}) -> {type_}: ...\n") == []


@pytest.mark.parametrize(
    "code",
    [
        "class Things(Contract):\n    def do(self) -> int: ...\n",
        "class Things(Contract):\n    @property\n    def size(self) -> int: ...\n",
        "class Things(Contract):\n    async def do(self, it) -> int: ...\n",
        "class Things(Contract):\n    async def do(self, it: int): ...\n",
        "class Things(Contract):\n    async def do(self, *ids: int) -> int: ...\n",
        "class Things(Contract):\n    async def do(self, **ids: int) -> int: ...\n",
        "class Things(Contract):\n    size: int = 1\n",
        "class Gone(Message, frozen=False):\n    id: int\n",
        "class Gone(Message):\n    model_config = {'frozen': False}\n    id: int\n",
        "class Gone(Message):\n    ids: list[int]\n",
        "class Gone(Message):\n    ids: tuple[set[int], ...]\n",
        "class Gone(Message):\n    it: Thing\n",
        "Alias = list[Thing]\n\nclass Things(Contract):\n    async def do(self) -> Alias: ...\n",
        "class Base(BaseModel):\n    it: Thing\n\nclass Sub(Base):\n    id: int\n",
    ],
)
def test_contracts_and_messages_that_others_cannot_ask_or_trust_are_refused(check: Check, code: str) -> None:
    assert check(code)


@pytest.mark.parametrize(
    "code",
    [
        "class Gone(Message):\n    ids: tuple[int, ...]\n    by: frozenset[str] = frozenset()\n",
        "class Gone(Message, frozen=True):\n    id: int\n",
        "class Things(Contract, version=2):\n    async def do(self, *, it: int = 1) -> None: ...\n",
        "class Things(Contract):\n    def _own(self): ...\n",
        'class Things(Contract):\n    """Hands out no Thing."""\n',
    ],
)
def test_their_look_alikes_pass(check: Check, code: str) -> None:
    assert check(code) == []
