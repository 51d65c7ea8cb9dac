"""Small projects for tests: a folder with modules of its own, imported instead of the repository's."""

import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx2

from kernel.application import Application, create_app
from kernel.testing import settings_for
from kernel.testing.booting import talking_to

MANIFEST = 'from kernel import Module\n\nmodule = Module(owner="team")\n'
MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from kernel.database import BigId, new_metadata

class Base(DeclarativeBase):
    metadata = new_metadata()

class Thing(Base):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
"""
# A first migration that makes whatever the models of {module} say.
FROM_MODELS = """
from alembic import op
from modules.{module}.models import Base

revision = "0001"
down_revision = branch_labels = depends_on = None

def upgrade() -> None:
    Base.metadata.create_all(op.get_bind())

def downgrade() -> None:
    Base.metadata.drop_all(op.get_bind())
"""
# What makes the table of MODELS.
MIGRATION = """
import sqlalchemy as sa
from alembic import op
revision = "0001"
down_revision = None
branch_labels = depends_on = None

def upgrade() -> None:
    name = sa.Column("name", sa.String, nullable=False, unique=True)
    op.create_table("things", sa.Column("id", sa.Integer, primary_key=True), name)

def downgrade() -> None:
    op.drop_table("things")
"""


def write_migration(root: Path, module: str) -> Path:
    """A project at `root` whose module with MODELS has its migration."""
    folder = root / "migrations" / module
    folder.mkdir(parents=True)
    (folder / "0001_first.py").write_text(MIGRATION)
    return root


def write_project(root: Path, files: Mapping[str, str]) -> Path:
    """A project at `root`: paths below modules/ and their text. Each module gets an __init__.py and a manifest."""
    (root / "modules").mkdir(parents=True, exist_ok=True)
    (root / "modules" / "__init__.py").touch()
    for path, content in files.items():
        file = root / "modules" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").touch()
        if not (file.parent / "module.py").exists() and f"{file.parent.name}/module.py" not in files:
            (file.parent / "module.py").write_text(MANIFEST)
        file.write_text(content)
    return root


@contextmanager
def imported_alone() -> Iterator[None]:
    """Forget the modules that were imported, before and after."""
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "modules"}
    path = list(sys.path)
    for name in kept:
        del sys.modules[name]
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "modules"]:
            del sys.modules[name]
        sys.modules.update(kept)
        sys.path[:] = path


@asynccontextmanager
async def running_project(
    root: Path, files: Mapping[str, str], variables: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Application, httpx2.AsyncClient]]:
    """The application of a small project, started, and a client that talks to it."""
    with imported_alone():
        settings = settings_for(
            write_project(root, files), {"DATABASE_URL": f"sqlite:///{root / 'data'}"} | (dict(variables or {}))
        )
        app = create_app(settings)
        async with app.router.lifespan_context(app), talking_to(app) as client:
            yield app, client
