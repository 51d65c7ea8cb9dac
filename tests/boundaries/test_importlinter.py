"""importlinter.ini works alone, with `lint-imports`, and sees every file of the modules."""

import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from kernel.ext.boundaries.self_test import applied, copied
from kernel.ext.boundaries.violations import Case, edit

pytestmark = pytest.mark.integration

# One violation for each contract of importlinter.ini.
VIOLATIONS = {
    "A module imports of another only its contract": ("modules/left/service.py", "import modules.right.repository"),
    "Modules do not depend on each other in a cycle": ("modules/right/service.py", "import modules.left.contract"),
    "A module's __init__.py imports neither the kernel nor a module": (
        "modules/right/__init__.py",
        "import kernel.database",
    ),
    "Inside a module: router, service, repository, models": (
        "modules/left/words.py",
        "def f():\n    import modules.left.router\n",
    ),
    "A contract uses plain values": ("modules/right/contract.py", "from sqlalchemy.orm import Mapped"),
    "Routers use repositories and services, not tables": ("modules/left/router.py", "import modules.left.models"),
    "Repositories and models do not use the web framework": ("modules/left/repository.py", "import fastapi"),
    "Drivers are used only where they belong": ("modules/left/repository.py", "import asyncpg"),
}


@pytest.fixture(scope="module")
def copy(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project with the modules `left` and `right`."""
    return copied(root, tmp_path_factory.mktemp("boundaries") / "copy")


def environment(folder: Path) -> dict[str, str]:
    """Import the modules from the folder. A wide terminal keeps each line of the report whole."""
    return os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"}


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
    """A wildcard without a match is not a failure, so that every module can be deleted."""
    shutil.copy(root / "importlinter.ini", tmp_path)
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "__init__.py").touch()
    status, broken, report = lint(tmp_path)
    assert (status, broken) == (0, set()), report


def unseen(folder: Path) -> set[str]:
    """Return the modules that are in either the graph of import-linter or the folder, but not in both."""
    code = "import grimp, json; print(json.dumps(list(grimp.build_graph('modules', cache_dir=None).modules)))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=True)
    on_disk = {
        ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
        for path in (folder / "modules").rglob("*.py")
    }
    return on_disk ^ set(json.loads(done.stdout))


def test_import_linter_sees_every_file(root: Path) -> None:
    missing = unseen(root)
    assert not missing, f"{sorted(missing)}: import-linter does not see these. Does a folder lack an __init__.py?"


def test_a_folder_without_an_init_file_is_found(copy: Path) -> None:
    """import-linter skips it without a message, which is why the test above exists."""
    hidden = {
        "modules/hidden/router.py": "import modules.right.models",
        "modules/left/hidden/file.py": "import modules.right.models",
    }
    with applied(copy, Case("hidden", hidden)):
        status, _, report = lint(copy)
        missing = unseen(copy)
    assert status == 0, report
    assert missing == {"modules.hidden.router", "modules.left.hidden.file"}


def test_no_contract_names_a_module(root: Path) -> None:
    named = re.findall(r"\bmodules\.(\w+)", (root / "importlinter.ini").read_text())
    assert named == []
