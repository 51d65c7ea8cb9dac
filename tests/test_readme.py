"""The statements of the README and the guide hold: following the guide creates a working module."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
TRY = """
import asyncio, httpx2
from kernel.application import create_app

async def main():
    app = create_app()
    async with app.router.lifespan_context(app):
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
            assert (await client.post("/api/v1/notes", json={"text": "milk"})).status_code == 201
            listed = (await client.get("/api/v1/notes")).json()
            assert [note["text"] for note in listed["items"]] == ["milk"], listed

asyncio.run(main())
"""


def copy_of(root: Path, target: Path) -> Path:
    """Copy the files of the repository without those that git ignores, but with mypy's cache of the same files."""
    ignored = shutil.ignore_patterns(".git", ".venv*", "data", "__pycache__", ".*_cache", "*.egg-info", ".env.local")
    copy = Path(shutil.copytree(root, target, ignore=ignored))
    if (known := root / ".mypy_cache").exists():
        shutil.copytree(known, copy / ".mypy_cache")
    return copy


def run(folder: Path, *command: str | Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "PYTEST_"))}
    environment |= {"PYTHONPATH": f"{folder / 'platform'}:{folder}", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_a_module_made_by_following_the_guide_works_and_passes_the_checks(root: Path, tmp_path: Path) -> None:
    copy = copy_of(root, tmp_path / "copy")
    guide = (root / "docs" / "add-a-module.md").read_text()
    files = re.findall(r"```python\n# (modules/notes/\w+\.py)\n(.*?)```", guide, re.DOTALL)
    assert len(files) == 5
    (copy / "modules" / "notes").mkdir()
    (copy / "modules" / "notes" / "__init__.py").write_text('"""Notes."""\n')
    for path, content in files:
        (copy / path).write_text(content)
    run(copy, BIN / "kernel", "migration", "notes", "-m", "first tables")
    run(copy, BIN / "ruff", "format", "migrations")
    run(copy, BIN / "ruff", "check", "modules", "migrations")
    run(copy, BIN / "ruff", "format", "--check", "modules", "migrations")
    run(copy, BIN / "kernel", "owners", "--write")
    run(copy, BIN / "kernel", "check")
    run(copy, BIN / "mypy", "--cache-dir", copy / ".mypy_cache", "-p", "modules.notes")
    run(copy, BIN / "kernel", "migrate")
    run(copy, BIN / "kernel", "migrate", "--check")
    run(copy, sys.executable, "-c", TRY)


def test_every_link_and_path_in_the_readme_exists(root: Path) -> None:
    readme = (root / "README.md").read_text()
    for link in re.findall(r"\]\(([^)]+)\)", readme):
        assert (root / link).exists(), link
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", readme)) <= targets


def test_the_readme_has_at_most_two_hundred_lines(root: Path) -> None:
    assert len((root / "README.md").read_text().splitlines()) <= 200
