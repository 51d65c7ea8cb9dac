"""An extension of another distribution is added by installing it: no line of the platform is edited.

docs/extensions.md shows the files of audit_log/.
"""

import json
import re
import subprocess
from pathlib import Path

import pytest
from uv import find_uv_bin

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
    """A folder in which the extension is installed from its pyproject.toml."""
    folder = tmp_path_factory.mktemp("packages")
    command = [find_uv_bin(), "pip", "install", "--quiet", "--offline", "--no-deps", "--target", folder, AUDIT_LOG]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = write_project(tmp_path / "project", {"things/router.py": ROUTER})
    (root / "pyproject.toml").write_text('[tool.kernel]\nextensions = ["audit_log"]\n')
    return root


def output(packages: Path, project: Path, *command: str | Path, **variables: str) -> str:
    done = run_with(packages, project, *command, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_records_changing_requests_checks_its_health_and_adds_a_command(packages: Path, project: Path) -> None:
    token = output(packages, project, KERNEL, "token", "--subject", "ann", "--scope", "things:write").strip()
    script = AUDIT_LOG / "send_requests.py"
    read, created, checks = json.loads(
        output(packages, project, KERNEL.with_name("python"), script, token).splitlines()[-1]
    )
    assert (read, created) == (200, 201)
    assert "audit_log" in checks
    [line] = output(packages, project, KERNEL, "audit", "--last", "5").splitlines()
    assert json.loads(line) == {"method": "POST", "path": "/api/v1/things", "caller": "ann", "status": 201}


def test_its_settings_come_from_the_layers_and_a_misspelled_one_is_named(packages: Path, project: Path) -> None:
    shown = output(packages, project, KERNEL, "settings", AUDIT_FILE="elsewhere.log")
    assert "elsewhere.log" in next(line for line in shown.splitlines() if "AUDIT_FILE" in line)
    done = run_with(packages, project, KERNEL, "settings", AUDIT_FIEL="elsewhere.log")
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
