"""Branches that each add or change a module merge without a conflict, in a real git repository."""

import shutil
import subprocess
from pathlib import Path

import pytest

from kernel.ext.boundaries import lock, owners
from kernel.ext.boundaries.project import Project

pytestmark = pytest.mark.integration

CONTRACT = """from kernel import Contract
from kernel.ext.messaging import Message


class Gone(Message):
    id: int


class Things(Contract):
    async def get(self, thing_id: int) -> int:
        raise NotImplementedError
"""


def git(root: Path, *command: str) -> str:
    done = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def add(root: Path, module: str, contract: str = CONTRACT) -> None:
    """Write a module, lock its contract, write CODEOWNERS, and commit."""
    folder = root / "modules" / module
    folder.mkdir(parents=True, exist_ok=True)
    (root / "modules/__init__.py").touch()
    (folder / "__init__.py").touch()
    (folder / "module.py").write_text(f"from kernel import Module\n\nmodule = Module(owner='{module}-team')\n")
    (folder / "contract.py").write_text(contract)
    for home in ("migrations", "tests/modules"):
        (root / home / module).mkdir(parents=True, exist_ok=True)
        (root / home / module / "__init__.py").touch()
    project = Project(root)
    lock.write(project)
    path = owners.place(root)
    path.parent.mkdir(exist_ok=True)
    path.write_text(owners.written(project))
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", f"change {module}")


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository with two modules, and with .gitattributes and .gitignore of this project."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "config", "user.name", "Test")
    git(tmp_path, "config", "user.email", "test@example.org")
    for name in (".gitattributes", ".gitignore"):
        shutil.copy(root / name, tmp_path)
    for module in ("billing", "orders"):
        add(tmp_path, module)
    return tmp_path


def findings(root: Path) -> list[str]:
    project = Project(root)
    return [found.why for check in (lock.check, owners.check) for found in check(project)]


@pytest.mark.parametrize(
    ("one", "other"), [("mail", "maps"), ("maps", "mail"), ("accounts", "zones"), ("a", "orders2")]
)
def test_branches_that_each_add_a_module_merge_without_findings(project: Path, one: str, other: str) -> None:
    for module in (one, other):
        git(project, "checkout", "-q", "-b", module, "main")
        add(project, module)
    git(project, "merge", "-q", "--no-edit", one)
    assert findings(project) == []
    assert all(f"/modules/{module}/ @{module}-team" in owners.place(project).read_text() for module in (one, other))
    before = owners.place(project).read_text()
    assert owners.written(Project(project)) == before, "CODEOWNERS must not change after a merge"


def test_branches_that_change_the_contracts_of_two_modules_merge(project: Path) -> None:
    for module in ("billing", "orders"):
        git(project, "checkout", "-q", "-b", module, "main")
        add(project, module, CONTRACT.replace("thing_id: int", "thing_id: int, deep: bool = False"))
    git(project, "merge", "-q", "--no-edit", "billing")
    assert findings(project) == []


def test_branches_that_name_two_owners_of_one_module_merge_to_a_finding(project: Path) -> None:
    path = owners.place(project)
    for team in ("north", "south"):
        git(project, "checkout", "-q", "-b", team, "main")
        path.write_text(path.read_text().replace("@orders-team", f"@{team}-team"))
        git(project, "commit", "-q", "-a", "-m", team)
    git(project, "merge", "-q", "--no-edit", "north")
    assert findings(project) == [
        "CODEOWNERS does not match the owners in the manifests, so reviews go to the wrong team."
    ]
