"""The types and members that a contract or message may have."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kernel.ext.boundaries import values
from kernel.ext.boundaries.findings import Finding
from kernel.ext.boundaries.project import Project

Check = Callable[..., list[Finding]]

HEAD = """
import datetime as dt
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Generic, Literal, NamedTuple, Optional, TypedDict, TypeVar
from uuid import UUID
from fastapi import Request, UploadFile
from pydantic import BaseModel, ConfigDict, EmailStr, Field, FilePath, Json, PrivateAttr, RootModel, SecretStr
from pydantic import computed_field
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession
from kernel import Contract, ContractError, safe
from kernel.ext.messaging import Message
from kernel.ext.paging import Page
from kernel.ext.fields import Id
from modules.other.contract import Colour
from modules.other.models import Entity
from modules.things.models import Thing

T = TypeVar("T")

class Slice(BaseModel, Generic[T], frozen=True):
    items: tuple[T, ...]

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
        "type[Thing]",
        "Slice[Thing]",
        "Slice",
        "list",
        "dict | None",
        "tuple[Any, ...]",
        "SecretStr",
        "Json[int]",
        "FilePath",
        "bytes",
        "list[int] | frozenset[int]",
        "dict[tuple[int, int], str]",
        "dict[Annotated[tuple[int, int], 1], str]",
        "Mapping[Info, str]",
        "dict[int | None, str]",
        "dict[Colour, int]",
    ],
)
@pytest.mark.parametrize("place", ["argument", "result", "field"])
def test_a_type_that_cannot_be_sent_is_refused(check: Check, type_: str, place: str) -> None:
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
        "tuple[int, ...]",
        "Slice[Info]",
        "dict[Word, int]",
        "dict[Annotated[str, Field(max_length=9)], int]",
        "list[int] | None",
        "Blob",
        "Pair",
        "Point",
    ],
)
def test_plain_values_pass(check: Check, type_: str) -> None:
    own = "class Pair(NamedTuple):\n    a: int\n\n@dataclass(frozen=True)\nclass Point:\n    x: float\n\n"
    own += "class Word(str, Enum):\n    A = 'a'\n\n"
    own += "class Blob(BaseModel, ser_json_bytes='base64', val_json_bytes='base64'):\n    data: bytes\n\n"
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
        "Base = Contract\n\nclass Things(Base):\n    async def do(self) -> Thing: ...\n",
        "Base = Message\n\nclass Gone(Base):\n    ids: list[int]\n",
        "def make():\n    class Things(Contract):\n        async def do(self) -> int: ...\n",
        "class Given(BaseModel):\n    id: int\n\nclass Given(BaseModel):\n    id: str\n",
        "Gone = create_model('Gone', __base__=Message)\n",
        "Gone = type('Gone', (Message,), {})\n",
        "class Root(RootModel[list[Thing]]): ...\n",
        "class Sub(Slice[Thing]): ...\n",
        "class Sub(Slice): ...\n",
        "class Given(BaseModel):\n    @computed_field\n    def it(self) -> Thing: ...\n",
        "class NotThere(ContractError):\n    it: Thing\n",
        "class NotThere(LookupError):\n    id: int\n",
        "class NotThere(Exception): ...\n\nclass Gone(NotThere): ...\n",
        "class Things(Contract):\n    async def do(self) -> T: ...\n",
        "class Things(Contract):\n    @staticmethod\n    async def do(it: Thing) -> int: ...\n",
        "class Things(Contract):\n    @cached\n    async def do(self) -> int: ...\n",
        "class Things(Contract):\n    if Thing:\n        async def do(self) -> Thing: ...\n",
        "class Mixin:\n    def do(self) -> int: ...\n\nclass Things(Contract, Mixin): ...\n",
        "class Mixin:\n    async def do(self) -> Thing: ...\n\nclass Things(Contract, Mixin): ...\n",
        "class Things(Contract, Row): ...\n",
        "class Things(Contract):\n    async def do(self, it: list[int] = []) -> int: ...\n",
        "class Things(Contract):\n    async def do(self, it: dt.date = dt.date.today()) -> int: ...\n",
        "class Things(Contract):\n    async def do(self, it: tuple[str, ...] = (name(),)) -> int: ...\n",
        "class Loose(BaseModel, frozen=False):\n    id: int\n\nclass Gone(Message, Loose): ...\n",
        "OPTIONS = {'frozen': False}\n\nclass Gone(Message):\n    model_config = OPTIONS\n    id: int\n",
        "class Gone(Message):\n    model_config = ConfigDict(**OPTIONS)\n    id: int\n",
        "class Bag(BaseModel, frozen=True):\n    ids: list[int]\n\nclass Gone(Message):\n    bag: Bag\n",
        "class Bag(BaseModel):\n    id: int\n\nclass Gone(Message):\n    bags: tuple[Bag, ...]\n",
        "class Bag(TypedDict):\n    id: int\n\nclass Gone(Message):\n    bag: Bag | None\n",
        "@dataclass\nclass Bag:\n    id: int\n\nclass Gone(Message):\n    bag: Bag\n",
    ],
)
def test_an_unusable_contract_or_message_is_refused(check: Check, code: str) -> None:
    assert check(code)


@pytest.mark.parametrize(
    "code",
    [
        "class Gone(Message):\n    ids: tuple[int, ...]\n    by: frozenset[str] = frozenset()\n",
        "class Gone(Message, frozen=True):\n    id: int\n",
        "class Things(Contract, version=2):\n    async def do(self, *, it: int = 1) -> None: ...\n",
        "class Things(Contract):\n    def _own(self): ...\n",
        "class Things(Contract):\n    @safe\n    async def do(self, it: Colour = Colour.A) -> None: ...\n",
        "class Things(Contract):\n    async def do(self, it: frozenset[int] = frozenset((1, -2))) -> None: ...\n",
        "class Things(Contract):\n    async def do(self, it: dt.date = dt.date(2024, 1, 1)) -> None: ...\n",
        "class Gone(Message):\n    id: int\n    _seen: dict[str, Any] = PrivateAttr()\n",
        "class Given(BaseModel):\n    names: ClassVar[list[Any]] = []\n",
        "class Given(BaseModel):\n    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)\n    id: int\n",
        "@dataclass(frozen=True)\nclass Bag:\n    id: int\n\nclass Gone(Message):\n    bag: Bag\n",
        "class Gone(Message):\n    model_config = ConfigDict(title='x')\n    at: Mapping[str, int]\n",
        "class Given(BaseModel):\n    ids: list[int]\n",
        "class Given(BaseModel):\n    id: Final[int]\n    names: Final[dict[str, Any]] = {}\n",
        "class Things(Contract):\n    MOST: ClassVar[int] = 5\n    DAY: Final = 60 * 60 * 24\n",
        "class Things(Contract):\n    async def do(self, seconds: int = 60 * 60) -> None: ...\n",
        "class NotThere(ContractError):\n    id: int\n\nclass Gone(NotThere):\n    since: dt.date\n",
        'class Things(Contract):\n    """Returns no Thing."""\n',
    ],
)
def test_valid_examples_pass(check: Check, code: str) -> None:
    assert check(code) == []


@pytest.mark.parametrize("code", ["class Hidden(Contract): ...\n", "class Hidden(Message):\n    id: int\n"])
@pytest.mark.parametrize("file", ["service.py", "handlers.py", "schemas.py"])
def test_a_contract_or_message_outside_contract_py_is_refused(
    check: Check, tmp_path: Path, code: str, file: str
) -> None:
    assert check("class Things(Contract): ...\n") == []
    (tmp_path / "modules" / "things" / file).write_text(
        f"from kernel import Contract\nfrom kernel.ext.messaging import Message\n\n{code}"
    )
    [found] = values.check(Project(tmp_path))
    assert (found.path, found.line) == (f"modules/things/{file}", 4)
    assert "not in contract.py" in found.why


def test_an_implementation_is_not_a_contract(check: Check, tmp_path: Path) -> None:
    check("class Things(Contract): ...\n")
    code = "from modules.things.contract import Things\n\nclass Answers(Things):\n    def now(self): ...\n"
    (tmp_path / "modules" / "things" / "service.py").write_text(code)
    assert list(values.check(Project(tmp_path))) == []


def test_two_classes_of_one_name_in_a_contract_are_refused(check: Check, tmp_path: Path) -> None:
    check("")
    folder = tmp_path / "modules" / "things"
    (folder / "contract.py").unlink()
    (folder / "contract").mkdir()
    for name in ("one", "two"):
        (folder / "contract" / f"{name}.py").write_text("from enum import Enum\n\nclass Same(Enum):\n    A = 1\n")
    [found] = values.check(Project(tmp_path))
    assert found.path == "modules/things/contract/two.py"


@pytest.mark.parametrize(
    "code",
    [
        "class A(A): ...\n",
        "class A(B, BaseModel): ...\n\nclass B(A): ...\n",
        "A = B\nB = A\n",
        "A = list['A'] | int\n",
        "A = Annotated[int, A]\n",
        "A = Annotated[int, Field(ge=B)]\nB = C\nC = B\n",
        "A = Annotated\n",
        "A = Literal\n",
        "A = f(1)[2]\n",
        "A = tuple[()]\n",
        "class A(BaseModel):\n    it: 'A | None' = None\n",
    ],
)
def test_every_kind_of_definition_is_checked(check: Check, code: str) -> None:
    for found in check(f"{code}\nclass Things(Contract):\n    async def do(self, it: A) -> A: ...\n"):
        assert found.path == "modules/things/contract.py"


def test_a_base_class_from_another_file_makes_a_contract(check: Check, tmp_path: Path) -> None:
    check("")
    folder = tmp_path / "modules" / "things"
    (folder / "base.py").write_text("from kernel import Contract\n\nBase = Contract\n")
    code = "from modules.things.base import Contract\n\nclass Things(Contract):\n    def do(self) -> int: ...\n"
    for text in (code, code.replace("Contract", "Base")):
        (folder / "contract.py").write_text(text)
        [found] = values.check(Project(tmp_path))
        assert "Things.do is not `async def`" in found.why
