"""The walls stand: each kind of violation, planted in a copy, breaks its wall and no other; its innocent likeness none.

The copy has modules of its own (`left`, `right`), so that these tests hold whatever features the base carries.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOTS = "The kernel never imports a module"
CONTRACT_ONLY = "A module imports of another only its contract"
NO_CIRCLES = "Modules do not depend on each other in circles"
EMPTY_INIT = "A module's __init__.py imports nothing of ours"
LAYERS = "Inside a module: router, service, repository, models"
PLAIN = "A contract speaks plain values"
NO_SQL = "Routers ask repositories and services, not tables"
NO_WEB = "Repositories and models know no web framework"
DRIVERS = "Drivers only where they belong"
FLOORS = "The floors of the kernel"

# A module with all it may have, each file importing what is intended. `left` also uses the contract of `right`.
MODULE = {
    "__init__": "",
    "module": "from kernel import Module\nfrom modules.NAME import service, settings, storage",
    "router": "from fastapi import APIRouter\nfrom kernel import use\nfrom modules.NAME import repository, service\n"
    "from modules.NAME.schemas import Schema",
    "handlers": "from modules.NAME import service",
    "service": "from modules.NAME import contract, repository, storage, words",
    "words": "from modules.NAME import schemas",  # a helper: no wall knows its name
    "repository": "import sqlalchemy\nfrom kernel.database import BaseRepository\n"
    "from modules.NAME import models, schemas",
    "storage": "import obstore\nfrom modules.NAME.settings import Settings",
    "models": "from sqlalchemy.orm import DeclarativeBase\nfrom kernel.database import new_metadata",
    "schemas": "from kernel.fields import Id\nfrom modules.NAME.contract import Value",
    "settings": "from kernel import ModuleSettings",
    "contract": "import pydantic\nfrom kernel import Contract",
}

# What is planted: the wall it breaks, the file it is appended to, the code.
VIOLATIONS = {
    # reaching into another module
    "another module's models": (CONTRACT_ONLY, "modules/left/repository.py", "from modules.right.models import Image"),
    "another's repository": (CONTRACT_ONLY, "modules/left/service.py", "import modules.right.repository as r"),
    "another's service": (CONTRACT_ONLY, "modules/left/router.py", "from modules.right import service"),
    "another's router": (CONTRACT_ONLY, "modules/left/router.py", "import modules.right.router"),
    "another's manifest": (CONTRACT_ONLY, "modules/left/module.py", "from modules.right.module import module"),
    "another's helper": (CONTRACT_ONLY, "modules/left/words.py", "from modules.right.words import split"),
    "another as a whole": (CONTRACT_ONLY, "modules/left/service.py", "import modules.right"),
    "all that another has": (CONTRACT_ONLY, "modules/left/service.py", "from modules.right.service import *"),
    "inside a function": (
        CONTRACT_ONLY,
        "modules/left/repository.py",
        "def f():\n    from modules.right.repository import ImageRepository\n",
    ),
    "under TYPE_CHECKING": (
        CONTRACT_ONLY,
        "modules/left/service.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from modules.right.models import Image\n",
    ),
    "after a failure": (
        CONTRACT_ONLY,
        "modules/left/service.py",
        "try:\n    import left\nexcept ImportError:\n    import modules.right.service\n",
    ),
    "by a relative import": (CONTRACT_ONLY, "modules/left/repository.py", "from ..right import models"),
    "a contract that is not the module's": (
        CONTRACT_ONLY,
        "modules/left/router.py",
        "import modules.right.old.contract",
    ),
    "through the package of all modules": (CONTRACT_ONLY, "modules/__init__.py", "from modules.right import models"),
    "a circle of contracts": (NO_CIRCLES, "modules/right/service.py", "import modules.left.contract"),
    "an __init__.py that hands out models": (EMPTY_INIT, "modules/right/__init__.py", "from .models import Image"),
    "an __init__.py that loads the kernel": (EMPTY_INIT, "modules/right/__init__.py", "import kernel.database"),
    # inside one module
    "models use the repository": (LAYERS, "modules/left/models.py", "import modules.left.repository"),
    "a repository uses the router": (LAYERS, "modules/left/repository.py", "import modules.left.router"),
    "a repository uses the service": (LAYERS, "modules/left/repository.py", "def f():\n    from . import service\n"),
    "a service uses the router": (LAYERS, "modules/right/service.py", "import modules.right.router"),
    "a router uses the manifest": (LAYERS, "modules/right/router.py", "import modules.right.module"),
    "schemas use models": (LAYERS, "modules/right/schemas.py", "from modules.right.models import Image"),
    "a contract uses models": (LAYERS, "modules/right/contract.py", "from modules.right.models import Image"),
    "a helper leads around the layers": (LAYERS, "modules/left/words.py", "import modules.left.router"),
    "SQLAlchemy in a contract": (PLAIN, "modules/right/contract.py", "from sqlalchemy.orm import Mapped"),
    "FastAPI in a contract": (PLAIN, "modules/right/contract.py", "from fastapi import UploadFile"),
    "SQLAlchemy in a router": (NO_SQL, "modules/left/router.py", "from sqlalchemy import select"),
    "models in a router": (NO_SQL, "modules/left/router.py", "from modules.left.models import Event"),
    "models in handlers": (NO_SQL, "modules/left/handlers.py", "import modules.left.models"),
    "FastAPI in a repository": (NO_WEB, "modules/left/repository.py", "from fastapi import Depends"),
    "Starlette in models": (NO_WEB, "modules/right/models.py", "import starlette.requests"),
    "the kernel's web in a repository": (NO_WEB, "modules/right/repository.py", "import kernel.web.problems"),
    # drivers
    "asyncpg in a module": (DRIVERS, "modules/left/repository.py", "import asyncpg"),
    "httpx2 in a module": (DRIVERS, "modules/left/service.py", "def f():\n    from httpx2 import AsyncClient\n"),
    "alembic in a module": (DRIVERS, "modules/left/models.py", "from alembic import op"),
    "sqlite3 in a module": (DRIVERS, "modules/left/storage.py", "import sqlite3"),
    "obstore beside the storage": (DRIVERS, "modules/right/service.py", "import obstore.store"),
    "aiosqlite in the kernel's web": (DRIVERS, "platform/kernel/web/shell.py", "import aiosqlite"),
    # the kernel
    "the kernel knows modules": (ROOTS, "platform/kernel/discovery.py", "def f():\n    import modules\n"),
    "settings look up": (FLOORS, "platform/kernel/settings/groups.py", "import kernel.web"),
    "the database looks up": (FLOORS, "platform/kernel/database/pool.py", "import kernel.app"),
    "web looks up, in a function": (
        FLOORS,
        "platform/kernel/web/session.py",
        "def f():\n    import kernel.discovery\n",
    ),
    "neighbours on one floor": (FLOORS, "platform/kernel/http_client.py", "from kernel.database import Page"),
    "web knows observability": (FLOORS, "platform/kernel/web/shell.py", "import kernel.observability.logs"),
    "testing knows the server": (FLOORS, "platform/kernel/testing/__init__.py", "def f():\n    import kernel.server\n"),
    "up by way of the kernel's own names": (
        FLOORS,
        "platform/kernel/database/errors.py",
        "from kernel import NotFound",
    ),
    "a kernel file without a floor": (FLOORS, "platform/kernel/extra.py", ""),
}

INNOCENT = {
    "modules/left/router.py": "from modules.right.contract import Value as RightValue\n",
    "modules/left/service.py": "def f():\n    import modules.right.contract as right\n    return right\n",
    "modules/left/handlers.py": "from ..right import contract\n",
    "modules/left/words.py": "# from modules.right.models import Image\nNAME = 'modules.right.models.Image'\n",
    "modules/left/models.py": '"""Not `import modules.right.models`."""\n',
    "modules/left/settings.py": "from modules.right.contract.values import Colour\n",
    "modules/right/contract/__init__.py": "from .values import Colour\n",  # a contract may become a package
    "modules/right/contract/values.py": "from enum import Enum\n",
    "modules/left/storage.py": "import modules.left.words_of_storage\n",
    "modules/left/words_of_storage.py": "import zlib\nimport modules.left.schemas\n",
}


@pytest.fixture(scope="module")
def copy(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The walls, the kernel and the modules, and two modules more."""
    copy = tmp_path_factory.mktemp("walls")
    shutil.copy(root / "importlinter.ini", copy)
    for folder in ("platform/kernel", "modules"):
        shutil.copytree(root / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("left", "right"):
        (copy / "modules" / name).mkdir()
        for file, code in MODULE.items():
            (copy / "modules" / name / f"{file}.py").write_text(f"{code.replace('NAME', name)}\n")
    (copy / "modules" / "right" / "old").mkdir()
    for file in ("__init__", "contract"):
        (copy / "modules" / "right" / "old" / f"{file}.py").touch()
    with (copy / "modules" / "left" / "router.py").open("a") as router:
        router.write("from modules.right.contract import Contract\n")
    return copy


@contextmanager
def planted(copy: Path, plants: Mapping[str, str]) -> Iterator[None]:
    """The copy with this code appended to these files, which need not exist; afterwards as before."""
    before = {path: (copy / path).read_bytes() if (copy / path).exists() else None for path in plants}
    folders = [folder for path in plants for folder in (copy / path).parents if not folder.exists()]
    try:
        for path, code in plants.items():
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            with (copy / path).open("a") as file:
                file.write(f"\n{code}\n")
        yield
    finally:
        for path, content in before.items():
            if content is None:
                (copy / path).unlink(missing_ok=True)
            else:
                (copy / path).write_bytes(content)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def environment(folder: Path) -> dict[str, str]:
    """Where `kernel` and `modules` are those of the folder, although the project's own kernel is installed."""
    return os.environ | {"PYTHONPATH": f"{folder / 'platform'}{os.pathsep}{folder}", "COLUMNS": "200"}


def lint(folder: Path) -> tuple[int, set[str], str]:
    """The linter's exit code, the walls that it found broken, and its report."""
    command = [Path(sys.executable).parent / "lint-imports", "--config", "importlinter.ini", "--no-cache"]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
    report = done.stdout + done.stderr
    return done.returncode, set(re.findall(r"^(.+) BROKEN\b", report, re.MULTILINE)), report


def walls(root: Path) -> list[str]:
    configuration = ConfigParser()
    configuration.read(root / "importlinter.ini")
    return [section["name"] for name, section in configuration.items() if name.startswith("importlinter:contract:")]


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_a_violation_breaks_its_wall(copy: Path, violation: str) -> None:
    wall, path, code = VIOLATIONS[violation]
    with planted(copy, {path: code}):
        status, broken, report = lint(copy)
    assert (status, broken) == (1, {wall}), report


@pytest.mark.parametrize("code", ["import modules.left.contract", "from modules.right.models import Image"])
def test_the_kernel_knows_no_single_module(copy: Path, code: str) -> None:
    """Other walls break with it: through the module, each floor of the kernel reaches every other."""
    with planted(copy, {"platform/kernel/web/shell.py": code}):
        status, broken, report = lint(copy)
    assert status == 1
    assert ROOTS in broken, report


def test_innocent_likenesses_break_none(copy: Path) -> None:
    right = copy / "modules" / "right"
    with planted(copy, INNOCENT):
        (right / "contract.py").rename(right / "contract.txt")  # the package stands in its place
        try:
            status, broken, report = lint(copy)
        finally:
            (right / "contract.txt").rename(right / "contract.py")
    assert (status, broken) == (0, set()), report


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("from modules.right.contract import Value", (0, set())),
        ("from modules.right.repository import Images", (1, {CONTRACT_ONLY})),
        ("from sqlalchemy import select", (1, {NO_SQL})),
    ],
    ids=["a contract", "another's repository", "SQLAlchemy in its router"],
)
def test_a_new_module_is_covered_without_an_edit(copy: Path, code: str, verdict: tuple[int, set[str]]) -> None:
    newcomer = {
        "modules/newcomer/__init__.py": '"""Newly arrived."""',
        "modules/newcomer/module.py": "from kernel import Module\nmodule = Module(owner='newcomers')",
        "modules/newcomer/contract.py": "from kernel import Contract",
        "modules/newcomer/router.py": code,
    }
    with planted(copy, newcomer):
        status, broken, report = lint(copy)
    assert (status, broken) == verdict, report


def test_nobody_may_reach_into_a_new_module(copy: Path) -> None:
    newcomer = {"modules/newcomer/__init__.py": "", "modules/newcomer/tables.py": ""}
    with planted(copy, newcomer | {"modules/left/service.py": "import modules.newcomer.tables"}):
        status, broken, report = lint(copy)
    assert (status, broken) == (1, {CONTRACT_ONLY}), report


def test_the_walls_stand_without_any_module(root: Path, tmp_path: Path) -> None:
    """A wildcard that finds nothing is no failure: each module can be deleted, and all of them."""
    shutil.copy(root / "importlinter.ini", tmp_path)
    shutil.copytree(
        root / "platform/kernel", tmp_path / "platform/kernel", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "__init__.py").touch()
    status, broken, report = lint(tmp_path)
    assert (status, broken) == (0, set()), report


@pytest.mark.parametrize("path", ["platform/kernel/fields.py", "modules/left/models.py"])
def test_it_is_the_copy_that_is_linted(copy: Path, path: str) -> None:
    with planted(copy, {path: "no Python"}):
        _, _, report = lint(copy)
    assert f"{copy / path}" in re.sub(r"\s", "", report)


def unseen(folder: Path) -> set[str]:
    """What the linter's graph has and the disk has not, and the other way round."""
    code = "import grimp, json; print(json.dumps(list(grimp.build_graph('kernel', 'modules', cache_dir=None).modules)))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=True)
    on_disk = {
        ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")
        for base, package in ((folder / "platform", "kernel"), (folder, "modules"))
        for path in (base / package).rglob("*.py")
    }
    return on_disk ^ set(json.loads(done.stdout))


def test_the_linter_sees_every_file(root: Path) -> None:
    missing = unseen(root)
    assert not missing, f"{sorted(missing)}: no wall holds here. Does the folder lack an __init__.py?"


def test_a_folder_without_an_init_file_is_noticed(copy: Path) -> None:
    """The linter passes over it and says nothing: this is what the test above is for."""
    hidden = {
        "modules/hidden/router.py": "import modules.right.models",
        "modules/left/hidden/file.py": "import modules.right.models",
        "platform/kernel/hidden/file.py": "import modules.right.models",
    }
    with planted(copy, hidden):
        status, _, report = lint(copy)
        missing = unseen(copy)
    assert status == 0, report
    assert missing == {"modules.hidden.router", "modules.left.hidden.file", "kernel.hidden.file"}


def test_platform_is_a_source_root_and_never_a_package(root: Path) -> None:
    assert not (root / "platform" / "__init__.py").exists()
    code = "import sys; assert sys.path[0] == ''; import platform; print(platform.__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == Path(sysconfig.get_path("stdlib"), "platform.py")


def test_no_wall_names_a_feature(root: Path) -> None:
    named = re.findall(r"\bmodules\.(\w+)", (root / "importlinter.ini").read_text())
    assert named == []


def test_every_wall_is_tried_and_explained(root: Path) -> None:
    assert {wall for wall, _, _ in VIOLATIONS.values()} == set(walls(root))
    explained = (root / "docs" / "boundaries.md").read_text().replace("`", "")
    assert [wall for wall in walls(root) if f"**{wall}**" not in explained] == []
