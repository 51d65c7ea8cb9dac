"""Two modules that the self-test adds to its copy, with every file that a module may have.

`left` depends on `right`. NAME, Name and names stand for the module, its entity and its table.
"""

_MODULE = {
    "__init__.py": '"""NAME."""\n',
    "module.py": '''"""The manifest of NAME."""

from kernel import Module
from modules.NAME.contract import Things
from modules.NAME.service import Answers

module = Module(
    owner="NAME-team", DEPENDSprovides={Things: Answers}, helpers={"words": "service", "rows": "repository"}
)
''',
    "router.py": '''"""NAME over HTTP."""

from fastapi import APIRouter

from modules.NAME import repository, service
from modules.NAME.schemas import Out

router = APIRouter()
''',
    "handlers.py": '"""The handlers of NAME."""\n\nfrom modules.NAME import service\n',
    "service.py": '''"""The decisions of NAME."""

from modules.NAME import repository, storage, words
from modules.NAME.contract import Things


class Answers(Things):
    """Implements the contract."""
''',
    "words.py": '"""A helper of the service."""\n\nfrom modules.NAME import schemas\n',
    "rows.py": '"""A helper of the repository."""\n\nimport sqlalchemy\n\nfrom modules.NAME.models import Name\n',
    "repository.py": '''"""Every query of NAME."""

from sqlalchemy import literal_column, select, text

from kernel.database import BaseRepository
from modules.NAME.models import Name
''',
    "storage.py": '"""Bytes."""\n\nimport obstore\n\nfrom modules.NAME.settings import Settings\n',
    "models.py": '''"""The table of NAME."""

from typing import Any

from sqlalchemy import (
    DDL, Column, Enum, ForeignKey, ForeignKeyConstraint, MetaData, Sequence, Table, event, text
)
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column, relationship

from kernel.database import BigId, new_metadata


class Base(DeclarativeBase):
    """The declarative base of NAME."""

    metadata = new_metadata()


class Name(Base):
    """A row."""

    __tablename__ = "names"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
''',
    "schemas.py": '''"""The request and response models of NAME."""

from pydantic import BaseModel

from modules.NAME.contract import Info


class Out(BaseModel):
    """A row, for callers."""

    info: Info
''',
    "settings.py": '"""Settings."""\n\nfrom kernel import ModuleSettings\n\n\nclass Settings(ModuleSettings): ...\n',
    "contract.py": '''"""The contract of NAME."""

from enum import StrEnum

from pydantic import BaseModel

from kernel import Contract, safe
from kernel.ext.messaging import Message


class Colour(StrEnum):
    """A colour."""

    RED = "red"
    BLUE = "blue"


class Info(BaseModel, frozen=True):
    """A thing, for other modules."""

    id: int
    title: str
    colour: Colour


class Gone(Message):
    """It was deleted."""

    id: int


class Things(Contract):
    """The things of NAME."""

    @safe
    async def get(self, thing_id: int) -> Info | None: ...

    async def paint(self, thing_id: int, colour: str = "red") -> bool: ...
''',
}
_MIGRATION = '''"""First tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table("names", sa.Column("id", sa.BigInteger, primary_key=True))


def downgrade() -> None:
    op.drop_table("names")
'''
_TEST = '"""Tests of NAME."""\n\nfrom modules.NAME.models import Name\n'

# Added to the router of the module that calls the other.
_ASKING = "\nfrom kernel import use\nfrom modules.OTHER.contract import Things as OtherThings\n"


def base() -> dict[str, str]:
    """Return the files of both modules by path."""
    return files_of("left", asks="right") | files_of("right")


def files_of(name: str, asks: str | None = None) -> dict[str, str]:
    """Return the files of one module, which may use another module."""
    every = {f"modules/{name}/{path}": text for path, text in _MODULE.items()}
    every[f"migrations/{name}/0001_first.py"] = _MIGRATION
    every[f"tests/modules/{name}/test_{name}.py"] = _TEST
    depends = f'depends_on={{"{asks}"}}, ' if asks else ""
    if asks:
        every[f"modules/{name}/router.py"] += _ASKING.replace("OTHER", asks)
    files = {}
    for path, text in every.items():
        said = text.replace("DEPENDS", depends).replace("NAME", name)
        files[path] = said.replace("Name", name.title()).replace("names", f"{name}s")
    return files
