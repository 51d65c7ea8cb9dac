"""Small projects for tests: a folder with modules of its own, imported instead of the repository's."""

import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx2

from kernel.application import Application, create_app
from kernel.extension import Extension
from kernel.testing import settings_for
from kernel.testing.booting import talking_to

_TEMPLATES = Path(__file__).with_name("templates")
MANIFEST = (_TEMPLATES / "module.py").read_text()
MODELS = (_TEMPLATES / "models.py").read_text()
# The migration that creates the table of MODELS.
MIGRATION = (_TEMPLATES / "migration.py").read_text()
# The migration that creates the tables of any models.
FROM_MODELS = (_TEMPLATES / "migration_from_models.py").read_text()


def modules_of(project: Path) -> dict[str, str]:
    """Return the text of the files below the folder modules of a project, by their paths there."""
    modules = project / "modules"
    files = sorted(path for path in modules.rglob("*.py") if path.name != "__init__.py")
    return {path.relative_to(modules).as_posix(): path.read_text() for path in files}


def write_migration(root: Path, module: str) -> Path:
    """Write a project to `root` whose module with MODELS has its migration."""
    folder = root / "migrations" / module
    folder.mkdir(parents=True)
    (folder / "0001_first.py").write_text(MIGRATION)
    return root


def write_project(root: Path, files: Mapping[str, str]) -> Path:
    """Write a project to `root`: paths below modules/ and their text.

    Each module gets an __init__.py and a manifest.
    """
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
    """Forget the modules that were imported, before and after, and write no byte code.

    Byte code of a file that is replaced within a second by one of the same length counts as current.
    """
    writes_none, sys.dont_write_bytecode = sys.dont_write_bytecode, True
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
        sys.dont_write_bytecode = writes_none


@asynccontextmanager
async def running_project(
    root: Path,
    files: Mapping[str, str],
    variables: Mapping[str, str] | None = None,
    extensions: tuple[type[Extension], ...] | None = None,
) -> AsyncIterator[tuple[Application, httpx2.AsyncClient]]:
    """Run the application of a small project with a client, by default with all extensions."""
    with imported_alone():
        settings = settings_for(
            write_project(root, files), {"DATABASE_URL": f"sqlite:///{root / 'data'}"} | (dict(variables or {}))
        )
        app = create_app(settings, extensions=extensions)
        async with app.router.lifespan_context(app), talking_to(app) as client:
            yield app, client
