"""The walls stand: each kind of violation, planted in a copy, turns the linter red; its innocent likeness does not."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

CONTRACT_ONLY = "A module imports of another only its contract"
NO_CIRCLES = "Modules do not depend on each other in circles"
LAYERS = "Inside a module: router, service, repository, models"
ROOTS = "The kernel never imports a module"
FLOORS = "The floors of the kernel"
DRIVERS = "Drivers only where they belong"
NO_SQL = "Routers ask repositories and services, not tables"
NO_WEB = "Repositories and models know no web framework"

# Where, what is appended there, and the wall that must fall. These modules exist in the copy alone.
VIOLATIONS = {
    "another module's models": ("modules/left/service.py", "from modules.right.models import Image", CONTRACT_ONLY),
    "another's repository": ("modules/left/router.py", "import modules.right.repository as r", CONTRACT_ONLY),
    "another's service": ("modules/third/service.py", "from modules.right import service", CONTRACT_ONLY),
    "another's module.py": ("modules/third/service.py", "from modules.right.module import module", CONTRACT_ONLY),
    "inside a function": (
        "modules/left/repository.py",
        "def f():\n    from modules.right.repository import ImageRepository\n",
        CONTRACT_ONLY,
    ),
    "under TYPE_CHECKING": (
        "modules/left/service.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from modules.right.models import Image\n",
        CONTRACT_ONLY,
    ),
    "by a relative import": ("modules/left/repository.py", "from ..right import models", CONTRACT_ONLY),
    "a new module's reach": ("modules/newcomer/router.py", "from modules.right.models import Image", CONTRACT_ONLY),
    "into a new module": ("modules/left/router.py", "from modules.newcomer.repository import x", CONTRACT_ONLY),
    "a circle of contracts": ("modules/right/service.py", "import modules.left.contract", NO_CIRCLES),
    "the kernel knows a feature": ("platform/kernel/web/shell.py", "import modules.left.contract", ROOTS),
    "settings look up": ("platform/kernel/settings/groups.py", "import kernel.web.shell", FLOORS),
    "the database looks up": ("platform/kernel/database/pool.py", "import kernel.app", FLOORS),
    "web looks up": ("platform/kernel/web/session.py", "import kernel.discovery", FLOORS),
    "an unplaced kernel file": ("platform/kernel/helpers.py", "", FLOORS),
    "models use the repository": ("modules/left/models.py", "import modules.left.repository", LAYERS),
    "a repository uses the router": ("modules/left/repository.py", "import modules.left.router", LAYERS),
    "a service uses the router": ("modules/right/service.py", "import modules.right.router", LAYERS),
    "a new module's layers": ("modules/newcomer/repository.py", "import modules.newcomer.router", LAYERS),
    "a driver in a module": ("modules/left/repository.py", "import asyncpg", DRIVERS),
    "an HTTP client in a module": ("modules/left/router.py", "import httpx2", DRIVERS),
    "obstore beside the storage": ("modules/right/service.py", "import obstore", DRIVERS),
    "a driver in the kernel's web": ("platform/kernel/web/shell.py", "import aiosqlite", DRIVERS),
    "SQL in a router": ("modules/left/router.py", "from sqlalchemy import select", NO_SQL),
    "models in a router": ("modules/newcomer/router.py", "import modules.newcomer.models", NO_SQL),
    "FastAPI in a repository": ("modules/left/repository.py", "from fastapi import Depends", NO_WEB),
    "Starlette in models": ("modules/right/models.py", "import starlette.requests", NO_WEB),
}
INNOCENT = {
    "modules/left/service.py": "from modules.right.contract import ImageInfo\n",
    "modules/left/repository.py": "def f():\n    import modules.right.contract as right\n    return right\n",
    "modules/left/models.py": "# from modules.right.models import Image\nNAME = 'modules.right.models'\n",
    "modules/newcomer/service.py": "import modules.right.contract\nfrom modules.newcomer import repository, schemas\n",
}
FILES = ("__init__", "module", "router", "service", "repository", "models", "schemas", "contract")


@pytest.fixture(scope="module")
def copy(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with some modules more; `left` uses the contract of `right`."""
    copy = tmp_path_factory.mktemp("walls")
    shutil.copy(root / "importlinter.ini", copy)
    for folder in ("platform/kernel", "modules"):
        shutil.copytree(root / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for module in ("left", "right", "third", "newcomer"):
        (copy / "modules" / module).mkdir()
        for name in FILES:
            (copy / "modules" / module / f"{name}.py").write_text('"""Part of a module."""\n')
    (copy / "modules" / "left" / "router.py").write_text("import modules.right.contract\n")
    return copy


def lint(folder: Path) -> tuple[int, str]:
    environment = os.environ | {"PYTHONPATH": f"{folder / 'platform'}:{folder}"}
    command = [Path(sys.executable).parent / "lint-imports", "--config", "importlinter.ini", "--no-cache"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, re.sub(r"\s+", " ", done.stdout + done.stderr)


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_a_violation_turns_its_wall_red(copy: Path, violation: str) -> None:
    path, code, wall = VIOLATIONS[violation]
    file = copy / path
    before = file.read_text() if file.exists() else None
    file.write_text((before or "") + f"\n{code}\n")
    try:
        status, report = lint(copy)
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_text(before)
    assert status == 1, report
    assert f"{wall} BROKEN" in report


def test_a_clean_copy_with_a_new_module_and_innocent_likenesses_is_green(copy: Path) -> None:
    before = {path: (copy / path).read_text() if (copy / path).exists() else None for path in INNOCENT}
    for path, code in INNOCENT.items():
        (copy / path).write_text((before[path] or "") + code)
    try:
        status, report = lint(copy)
    finally:
        for path, text in before.items():
            if text is None:
                (copy / path).unlink()
            else:
                (copy / path).write_text(text)
    assert status == 0, report


def test_the_linter_sees_every_file(root: Path) -> None:
    on_disk = {
        ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")
        for base, package in ((root / "platform", "kernel"), (root, "modules"))
        for path in (base / package).rglob("*.py")
    }
    assert grimp.build_graph("kernel", "modules", cache_dir=None).modules == on_disk


def test_a_folder_without_an_init_file_would_be_noticed(copy: Path) -> None:
    """What the test above guards against: the linter passes over such a folder and says nothing."""
    hidden = copy / "modules" / "newcomer" / "hidden"
    hidden.mkdir()
    (hidden / "file.py").write_text("import modules.right.models\n")
    try:
        status, _ = lint(copy)
        ruff = [Path(sys.executable).parent / "ruff", "check", "--select", "INP001", "--isolated", str(hidden)]
        seen = subprocess.run(ruff, capture_output=True, text=True, check=False)
    finally:
        shutil.rmtree(hidden)
    assert status == 0
    assert "INP001" in seen.stdout


def test_platform_is_a_source_root_and_never_a_package(root: Path) -> None:
    assert not (root / "platform" / "__init__.py").exists()
    code = "import sys; sys.path.insert(0, '.'); import platform; print(platform.__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip().endswith("/platform.py")


def test_no_wall_names_a_feature(root: Path) -> None:
    configuration = (root / "importlinter.ini").read_text()
    for folder in (root / "modules").iterdir():
        assert not re.search(rf"modules\.{folder.name}\b", configuration)


def test_every_wall_is_explained(root: Path) -> None:
    explained = (root / "docs" / "boundaries.md").read_text()
    for name in re.findall(r"^name = (.*)$", (root / "importlinter.ini").read_text(), re.MULTILINE):
        assert name in explained
