"""`kernel migration`, and the comparison of `kernel migrate --check`."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.core.commands import invoke
from tests.core.project import MODELS, write_migration, write_project

WITHOUT = '[tool.kernel]\nwithout-extensions = ["autogenerate"]\n'


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return invoke(folder, *arguments, DATABASE_URL=os.environ["DATABASE_URL"])


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one module, whose first migration is there."""
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'data'}")
    return write_project(write_migration(tmp_path, "shop"), {"shop/models.py": MODELS})


def test_a_migration_is_written_applied_and_compared(shop: Path) -> None:
    assert run(shop, "migrate").returncode == 0
    checked = run(shop, "migrate", "--check")
    assert (checked.returncode, "agrees with the models" in checked.stdout) == (0, True)
    models = shop / "modules" / "shop" / "models.py"
    models.write_text(f"{models.read_text()}    size: Mapped[int | None]\n")
    checked = run(shop, "migrate", "--check")
    assert (checked.returncode, "shop: tables and models differ: " in checked.stderr) == (1, True)
    written = run(shop, "migration", "shop", "-m", "sizes")
    assert "0002_sizes.py. Read it before you commit it." in written.stdout.replace("\n", "")
    assert run(shop, "migrate").returncode == 0
    assert run(shop, "migrate", "--check").returncode == 0


def test_without_the_extension_a_check_reports_that_models_were_not_compared(shop: Path) -> None:
    project = shop / "pyproject.toml"
    project.write_text(f"{project.read_text() if project.exists() else ''}\n{WITHOUT}")
    missing = run(shop, "migrate", "--check")
    assert (missing.returncode, "shop lacks migration 0001" in missing.stderr) == (1, True)
    assert run(shop, "migrate").returncode == 0
    checked = run(shop, "migrate", "--check")
    assert checked.returncode == 0
    assert "agrees" not in checked.stdout
    assert "shop: tables and models were not compared" in checked.stdout
