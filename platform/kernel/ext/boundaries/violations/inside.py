"""Cases for libraries, layers, values-only, contract-lock and owned."""

from kernel.ext.boundaries.violations import Case, edit

_CONTRACT = "modules/right/contract.py"
_LOCK = "modules/right/contract.lock.json"
_MANIFEST = "modules/left/module.py"
_SERVICE = "modules/left/service.py"

LIBRARIES = [
    edit("FastAPI in a repository", "modules/left/repository.py", "from fastapi import Depends"),
    edit("Starlette in models", "modules/right/models.py", "import starlette.requests"),
    edit("the kernel's web in a repository", "modules/right/repository.py", "import kernel.web.problems"),
    edit("FastAPI beside a repository", "modules/left/rows.py", "from fastapi import Query"),
    edit("FastAPI as a whole beside a repository", "modules/left/rows.py", "import fastapi"),
    edit("the kernel's web beside a repository", "modules/left/rows.py", "from kernel import web"),
    Case(
        "models beside a router",
        {
            "modules/left/pages.py": "from modules.left.models import Left",
            _MANIFEST: ('"words": "service"', '"words": "service", "pages": "router"'),
        },
    ),
    edit("SQLAlchemy in a router", "modules/left/router.py", "from sqlalchemy import select"),
    edit("SQLAlchemy in handlers", "modules/left/handlers.py", "import sqlalchemy.orm"),
    edit("SQLAlchemy in commands", "modules/left/commands.py", "import sqlalchemy.orm"),
    edit("models in a router", "modules/left/router.py", "from modules.left.models import Left"),
    edit("asyncpg in a module", "modules/left/repository.py", "import asyncpg"),
    edit("httpx2 in a function", _SERVICE, "def f():\n    from httpx2 import AsyncClient\n"),
    edit("requests in a module", _SERVICE, "import requests"),
    edit("sqlite3 in a module", "modules/left/storage.py", "import sqlite3"),
    edit("alembic in a module", "modules/left/models.py", "from alembic import op"),
    edit("obstore beside the storage", "modules/right/service.py", "import obstore.store"),
    edit("an own engine", "modules/left/repository.py", "from sqlalchemy.ext.asyncio import create_async_engine"),
    edit(
        "an engine through its package",
        "modules/left/repository.py",
        "import sqlalchemy as sa\nX = sa.create_engine('x')",
    ),
    edit("an engine under an alias", "modules/left/repository.py", "from sqlalchemy import create_engine as e"),
]
VALID_LIBRARIES = [
    edit("FastAPI in a router", "modules/left/router.py", "from fastapi import Depends, Query"),
    edit("SQLAlchemy in a repository", "modules/left/repository.py", "from sqlalchemy import func, select as s"),
    edit("a session type in a service", _SERVICE, "from sqlalchemy.ext.asyncio import AsyncSession"),
    edit("obstore in the storage", "modules/right/storage.py", "from obstore.store import MemoryStore"),
    edit("a driver's name in a comment", _SERVICE, "# import asyncpg"),
]

LAYERS = [
    edit("models use the repository", "modules/left/models.py", "import modules.left.repository"),
    edit("a repository uses the router", "modules/left/repository.py", "import modules.left.router"),
    edit("a repository uses the service", "modules/left/repository.py", "def f():\n    from . import service\n"),
    edit("a service uses the router", "modules/right/service.py", "import modules.right.router"),
    edit("a router uses the manifest", "modules/right/router.py", "import modules.right.module"),
    edit("schemas use models", "modules/right/schemas.py", "from modules.right.models import Right"),
    edit("a router uses handlers", "modules/left/router.py", "from modules.left import handlers"),
    edit("commands use the router", "modules/left/commands.py", "from modules.left import router"),
    edit("a contract uses schemas", _CONTRACT, "from modules.right import schemas"),
    edit("settings use schemas", "modules/right/settings.py", "import modules.right.schemas"),
    edit("a helper of the service imports a higher layer", "modules/left/words.py", "from modules.left import router"),
    edit(
        "a helper of the repository imports a higher layer",
        "modules/left/rows.py",
        "from modules.left.service import Answers",
    ),
    edit("a repository uses the service's helper", "modules/left/repository.py", "import modules.left.words"),
    edit("a file without a layer", "modules/left/misc.py", '"""What?"""'),
    edit("a folder without a layer", "modules/left/more/__init__.py", '"""What?"""'),
    edit("a helper on an unknown layer", _MANIFEST, ('"words": "service"', '"words": "servcie"')),
    edit("a helper that does not exist", _MANIFEST, ('"words": "service"', '"words": "service", "wrods": "service"')),
    edit("an __init__.py that imports models", "modules/right/__init__.py", "from .models import Right"),
    edit("an __init__.py that imports the kernel", "modules/right/__init__.py", "import kernel.database"),
]
VALID_LAYERS = [
    edit("a router skips down", "modules/left/router.py", "from modules.left.repository import text"),
    edit("a helper uses what its layer may use", "modules/left/words.py", "from modules.left import repository"),
    edit("a helper of the repository uses models", "modules/left/rows.py", "from modules.left import schemas"),
    edit("a service uses its helper", _SERVICE, "from modules.left.words import schemas as s"),
    Case(
        "another helper, declared",
        {
            "modules/left/more.py": '"""More."""',
            _MANIFEST: ('"words": "service"', '"words": "service", "more": "router"'),
        },
    ),
    Case(
        "an enum that models and schemas share, one layer down",
        {
            "modules/left/kinds.py": 'from enum import StrEnum\n\n\nclass Kind(StrEnum):\n    A = "a"',
            "modules/left/models.py": "from modules.left.kinds import Kind as K",
            "modules/left/schemas.py": "from modules.left.kinds import Kind as K",
            _MANIFEST: ('"words": "service"', '"words": "service", "kinds": "contract"'),
        },
    ),
    edit("upward in a comment", "modules/left/models.py", "# import modules.left.repository"),
]


def _method(annotation: str, imported: str = "") -> str:
    return f"{imported}\n\nclass More(Contract):\n    async def do(self) -> {annotation}: ...\n"


def _refused(name: str, code: str, *also: str) -> Case:
    return edit(name, _CONTRACT, code, "contract-lock", *also)


VALUES_ONLY = [
    _refused("an entity", _method("list[Right]", "from modules.right.models import Right"), "layers"),
    _refused("an entity, in a string", _method("'modules.right.models.Right'")),
    _refused(
        "a session as an argument", "class More(Contract):\n    async def do(self, s: 'AsyncSession') -> int: ...\n"
    ),
    _refused("a row", _method("Row", "from sqlalchemy import Row")),
    _refused("a request", _method("Request", "from starlette.requests import Request")),
    _refused("an upload", _method("UploadFile | None", "from fastapi import UploadFile")),
    _refused("Any", _method("Any", "from typing import Any")),
    _refused("object", _method("dict[str, object]")),
    _refused("code", _method("Callable[[], int]", "from collections.abc import Callable")),
    _refused("a stream", _method("AsyncIterator[int]", "from collections.abc import AsyncIterator")),
    _refused("a bare model", _method("BaseModel")),
    _refused("a class that is not a value", "class Plain:\n    pass\n\n" + _method("Plain")),
    _refused("through an alias", "from typing import Any\n\nAlias = list[Any]\n" + _method("Alias")),
    _refused("in a field of a value", "from typing import Any\n\nclass V(BaseModel):\n    x: Any\n" + _method("V")),
    _refused("in a base of a value", "class B(BaseModel):\n    x: object\n\nclass V(B):\n    y: int\n" + _method("V")),
    _refused("a method that is not async", "class More(Contract):\n    def do(self) -> int: ...\n"),
    _refused("a property", "class More(Contract):\n    @property\n    def size(self) -> int: ...\n"),
    _refused("an attribute", "class More(Contract):\n    size: int = 1\n"),
    _refused("no annotation", "class More(Contract):\n    async def do(self, x) -> int: ...\n"),
    _refused("any number of arguments", "class More(Contract):\n    async def do(self, *x: int) -> int: ...\n"),
    _refused("a mutable message", "class M(Message, frozen=False):\n    x: int\n"),
    _refused("the same in its configuration", "class M(Message):\n    model_config = {'frozen': False}\n    x: int\n"),
    _refused("an error of one process", "class NotThere(LookupError):\n    pass\n"),
    _refused("a list in a message", "class M(Message):\n    x: list[int]\n"),
]


def _value(name: str, code: str) -> Case:
    return edit(name, _CONTRACT, code)


VALID_VALUES_ONLY = [
    _value("an entity in a comment", "# async def do(self) -> Right: ..."),
    _value("an entity in a docstring", 'def f():\n    """Right, Session, Any."""\n'),
    _value("a value that no contract hands out", "class V(BaseModel, frozen=True):\n    x: tuple[int, ...]\n"),
    _value("a dataclass", "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass P:\n    x: float\n"),
    _value("an alias of plain types", "Pairs = dict[str, list[int]]"),
    _value(
        "literals that are names", "from typing import Literal\n\nclass V(BaseModel):\n    x: Literal['Any', 'Right']\n"
    ),
    _value("a private helper", "def _own(anything): ...\n"),
    _value("a constant of a value", "from typing import Final\n\nclass V(BaseModel):\n    x: Final[int]\n"),
]

CONTRACT_LOCK = [
    edit("a method is gone", _CONTRACT, ("    async def paint", "    async def _paint")),
    edit("a method is renamed", _CONTRACT, ("async def get", "async def read")),
    edit(
        "an argument is new and required",
        _CONTRACT,
        ("get(self, thing_id: int)", "get(self, thing_id: int, deep: bool)"),
    ),
    edit("an argument is required now", _CONTRACT, ('colour: str = "red"', "colour: str")),
    edit("an argument takes less", _CONTRACT, ('colour: str = "red"', 'colour: Colour = "red"')),
    edit("it may answer None", _CONTRACT, ("-> bool", "-> bool | None")),
    edit("it is no longer safe", _CONTRACT, ("    @safe\n", "")),
    edit("a field is gone", _CONTRACT, ("    title: str\n", "")),
    edit("a field is renamed", _CONTRACT, ("    title: str\n", "    name: str\n")),
    edit("a field may be None", _CONTRACT, ("    title: str\n", "    title: str | None\n")),
    edit("an unknown colour", _CONTRACT, ('    RED = "red"\n', '    RED = "red"\n    GREEN = "green"\n')),
    edit(
        "a message has an additional field",
        _CONTRACT,
        ('deleted."""\n\n    id: int', 'deleted."""\n\n    id: int\n    by: str'),
    ),
    edit("a message is renamed", _CONTRACT, ("class Gone", "class Went")),
    edit("a compatible change is not locked", _CONTRACT, ('colour: str = "red"', 'colour: str | None = "red"')),
    edit("a new version is not locked", _CONTRACT, ("(Contract)", "(Contract, version=2)")),
    edit("the lock was edited", _LOCK, ('"thing_id"', '"id"'), at=_CONTRACT),
    edit("the lock is broken", _LOCK, ("{", "<<<<<<< HEAD\n{")),
    edit("a message that is narrowed", _CONTRACT, ('deleted."""\n\n    id: int', 'deleted."""\n\n    id: bool')),
    edit(
        "a new version of a message without an upcast",
        _CONTRACT,
        ("class Gone(Message)", "class Gone(Message, version=2)"),
    ),
]
VALID_CONTRACT_LOCK = [
    edit("a docstring", _CONTRACT, ('"""The things of right."""', '"""The things of right, and more."""')),
    edit("Optional", _CONTRACT, ("-> Info | None", "-> 'None | Info'")),
    edit("the order of the fields", _CONTRACT, ("    id: int\n    title: str\n", "    title: str\n    id: int\n")),
    edit("a value that no method returns", _CONTRACT, "class Spare(BaseModel):\n    x: int\n"),
    edit("a default of another value", _CONTRACT, ('colour: str = "red"', 'colour: str = "blue"')),
]

OWNED = [
    edit("no owner", _MANIFEST, ('owner="left-team", ', "")),
    edit("an empty owner", _MANIFEST, ('"left-team"', '""')),
    edit("a computed owner", _MANIFEST, ('"left-team"', "TEAM")),
    edit("another owner", _MANIFEST, ('"left-team"', '"other-team"'), at=".github/CODEOWNERS"),
    edit("a later line of CODEOWNERS", ".github/CODEOWNERS", "/modules/left/ @other-team"),
    edit("CODEOWNERS was edited", ".github/CODEOWNERS", ("@left-team", "@other-team")),
    Case(
        "a new module that CODEOWNERS does not know",
        {
            "modules/fresh/__init__.py": '"""New."""',
            "modules/fresh/module.py": 'from kernel import Module\n\nmodule = Module(owner="fresh-team")',
        },
        at=".github/CODEOWNERS",
    ),
]
VALID_OWNED = [
    edit("other lines", ".github/CODEOWNERS", "*.md @writers"),
    edit("a comment", _MANIFEST, '# owner=""'),
    edit("an owner elsewhere", _SERVICE, 'owner = ""'),
]
