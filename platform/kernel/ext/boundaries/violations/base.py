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
    "handlers.py": '"""What NAME hears."""\n\nfrom modules.NAME import service\n',
    "service.py": '''"""What NAME decides."""

from modules.NAME import repository, storage, words
from modules.NAME.contract import Things


class Answers(Things):
    """The contract's answers."""
''',
    "words.py": '"""Beside the service."""\n\nfrom modules.NAME import schemas\n',
    "rows.py": '"""Beside the repository."""\n\nimport sqlalchemy\n\nfrom modules.NAME.models import Name\n',
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
    """Of NAME alone."""

    metadata = new_metadata()


class Name(Base):
    """A row."""

    __tablename__ = "names"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
''',
    "schemas.py": '''"""What goes over the wire."""

from pydantic import BaseModel

from modules.NAME.contract import Info


class Out(BaseModel):
    """A row, outside."""

    info: Info
''',
    "settings.py": '"""Settings."""\n\nfrom kernel import ModuleSettings\n\n\nclass Settings(ModuleSettings): ...\n',
    "contract.py": '''"""What others may ask of NAME."""

from enum import StrEnum

from pydantic import BaseModel

from kernel import Contract, safe
from kernel.ext.messaging import Message


class Colour(StrEnum):
    """A colour."""

    RED = "red"
    BLUE = "blue"


class Info(BaseModel, frozen=True):
    """What others see."""

    id: int
    title: str
    colour: Colour


class Gone(Message):
    """It was deleted."""

    id: int


class Things(Contract):
    """What others may ask."""

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

# Asked in the router, as modules do.
_ASKING = "\nfrom kernel import use\nfrom modules.OTHER.contract import Things as OtherThings\n"


def base() -> dict[str, str]:
    """The files of both modules, by their paths."""
    return files_of("left", asks="right") | files_of("right")


def files_of(name: str, asks: str | None = None) -> dict[str, str]:
    """The files of one module, which may ask another."""
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
