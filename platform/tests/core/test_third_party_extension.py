"""An extension of another distribution is added by installing it, without a change to the platform.

docs/extensions.md shows the files of audit_log/.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from uv import find_uv_bin

from kernel import extension
from tests.core.commands import invoke
from tests.core.installing import HERE, KERNEL, run_with
from tests.core.project import write_project

AUDIT_LOG = HERE / "audit_log"
pytestmark = pytest.mark.integration

ROUTER = """
from fastapi import APIRouter
from kernel import public, requires

router = APIRouter()

@router.get("", dependencies=[public])
async def read() -> int:
    return 1

@router.post("", status_code=201, dependencies=[requires("things:write")])
async def create() -> int:
    return 1
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a folder in which the extension is installed from its pyproject.toml."""
    folder = tmp_path_factory.mktemp("packages")
    command = [find_uv_bin(), "pip", "install", "--quiet", "--offline", "--no-deps", "--target", folder, AUDIT_LOG]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = write_project(tmp_path / "project", {"things/router.py": ROUTER})
    (root / "pyproject.toml").write_text('[tool.kernel]\nextensions = ["audit_log"]\n')
    return root


@pytest.fixture
def installed(packages: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Import the extension from its folder in this process."""
    monkeypatch.syspath_prepend(packages)
    extension.installed.cache_clear()
    yield
    extension.installed.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "audit_log"]:
        del sys.modules[name]


def kernel(project: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return invoke(project, *words, DATABASE_URL=f"sqlite:///{project / 'data'}", **variables)


@pytest.mark.usefixtures("installed")
def test_it_records_changing_requests_checks_its_health_and_adds_a_command(packages: Path, project: Path) -> None:
    script = AUDIT_LOG / "send_requests.py"
    done = run_with(packages, project, KERNEL.with_name("python"), script)
    assert done.returncode == 0, done.stderr
    read, created, checks = json.loads(done.stdout.splitlines()[-1])
    assert (read, created) == (200, 201)
    assert "audit_log" in checks
    [line] = kernel(project, "audit", "--last", "5").stdout.splitlines()
    assert json.loads(line) == {"method": "POST", "path": "/api/v1/things", "caller": "developer", "status": 201}


@pytest.mark.usefixtures("installed")
def test_its_settings_come_from_the_layers_and_a_misspelled_one_is_named(project: Path) -> None:
    (project / "elsewhere.log").write_text("{}\n")
    assert kernel(project, "audit", AUDIT_FILE="elsewhere.log").stdout == "{}\n"
    done = kernel(project, "audit", AUDIT_FIEL="elsewhere.log")
    assert done.returncode == 1
    assert "Did you mean AUDIT_FILE?" in done.stderr


def test_the_page_shows_the_files_as_they_are() -> None:
    page = (HERE.parents[2] / "docs" / "extensions.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r'^``` ?\w+ title="([^"]+)"\n(.*?)^```$', page, re.MULTILINE | re.DOTALL))
    assert shown.keys() == {
        "pyproject.toml",
        *(f"audit_log/{name}.py" for name in ("settings", "extension", "commands")),
    }
    for name, text in shown.items():
        assert text == (AUDIT_LOG / name).read_text(encoding="utf-8"), name
