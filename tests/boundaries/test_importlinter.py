"""importlinter.ini works alone, with `lint-imports`, and sees every file."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from configparser import ConfigParser
from pathlib import Path

import pytest

from kernel.ext.boundaries.self_test import applied, copied
from kernel.ext.boundaries.violations import Case, edit

# One violation for each contract of importlinter.ini.
VIOLATIONS = {
    "The kernel never imports a module": ("platform/kernel/modules/discovery.py", "def f():\n    import modules\n"),
    "A module imports of another only its contract": ("modules/left/service.py", "import modules.right.repository"),
    "Modules do not depend on each other in circles": ("modules/right/service.py", "import modules.left.contract"),
    "A module's __init__.py imports nothing of ours": ("modules/right/__init__.py", "import kernel.database"),
    "Inside a module: router, service, repository, models": (
        "modules/left/words.py",
        "def f():\n    import modules.left.router\n",
    ),
    "A contract speaks plain values": ("modules/right/contract.py", "from sqlalchemy.orm import Mapped"),
    "Routers ask repositories and services, not tables": ("modules/left/router.py", "import modules.left.models"),
    "Repositories and models know no web framework": ("modules/left/repository.py", "import kernel.web.problems"),
    "Drivers only where they belong": ("modules/left/repository.py", "import asyncpg"),
}


@pytest.fixture(scope="module")
def copy(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with two modules more."""
    return copied(root, tmp_path_factory.mktemp("boundaries") / "copy")


def environment(folder: Path) -> dict[str, str]:
    """Where `kernel` and `modules` are those of the folder, although the project's own kernel is installed."""
    return os.environ | {"PYTHONPATH": f"{folder / 'platform'}{os.pathsep}{folder}", "COLUMNS": "200"}


def lint(folder: Path) -> tuple[int, set[str], str]:
    """Return the exit code of import-linter, the broken contracts, and the report."""
    command = [Path(sys.executable).parent / "lint-imports", "--config", "importlinter.ini", "--no-cache"]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
    report = done.stdout + done.stderr
    return done.returncode, set(re.findall(r"^(.+) BROKEN\b", report, re.MULTILINE)), report


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_import_linter_alone_finds_the_violation(copy: Path, contract: str) -> None:
    with applied(copy, edit(contract, *VIOLATIONS[contract])):
        status, broken, report = lint(copy)
    assert (status, broken) == (1, {contract}), report


def test_every_contract_has_a_violation(root: Path) -> None:
    configuration = ConfigParser()
    configuration.read(root / "importlinter.ini")
    names = {part["name"] for name, part in configuration.items() if name.startswith("importlinter:contract:")}
    assert names == set(VIOLATIONS)


def test_a_project_without_modules_passes(root: Path, tmp_path: Path) -> None:
    """A wildcard without a match is no failure, so that every module can be deleted."""
    shutil.copy(root / "importlinter.ini", tmp_path)
    shutil.copytree(
        root / "platform/kernel", tmp_path / "platform/kernel", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "__init__.py").touch()
    status, broken, report = lint(tmp_path)
    assert (status, broken) == (0, set()), report


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


def test_import_linter_sees_every_file(root: Path) -> None:
    missing = unseen(root)
    assert not missing, f"{sorted(missing)}: import-linter does not see these. Does a folder lack an __init__.py?"


def test_a_folder_without_an_init_file_is_found(copy: Path) -> None:
    """The linter passes over it and says nothing: this is what the test above is for."""
    hidden = {
        "modules/hidden/router.py": "import modules.right.models",
        "modules/left/hidden/file.py": "import modules.right.models",
        "platform/kernel/hidden/file.py": "import modules.right.models",
    }
    with applied(copy, Case("hidden", hidden)):
        status, _, report = lint(copy)
        missing = unseen(copy)
    assert status == 0, report
    assert missing == {"modules.hidden.router", "modules.left.hidden.file", "kernel.hidden.file"}


def test_platform_is_a_source_root_and_never_a_package(root: Path) -> None:
    assert not (root / "platform" / "__init__.py").exists()
    code = "import sys; assert sys.path[0] == ''; import platform; print(platform.__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == Path(sysconfig.get_path("stdlib"), "platform.py")


def test_no_contract_names_a_feature(root: Path) -> None:
    named = re.findall(r"\bmodules\.(\w+)", (root / "importlinter.ini").read_text())
    assert named == []
