"""CODEOWNERS, written from the manifests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kernel.ext.boundaries import owners
from kernel.ext.boundaries.project import Project

Make = Callable[[str], Project]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def project(manifest: str) -> Project:
        folder = tmp_path / "modules" / "left"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "module.py").write_text(f"from kernel import Module\n\nmodule = Module({manifest})\n")
        (tmp_path / "migrations" / "left").mkdir(parents=True, exist_ok=True)
        return Project(tmp_path)

    return project


def write(project: Project) -> str:
    path = owners.place(project.root)
    path.parent.mkdir(exist_ok=True)
    path.write_text(owners.written(project))
    return path.read_text()


def test_every_folder_has_the_team_of_its_module(make: Make) -> None:
    text = write(make('owner="left-team"'))
    assert "/modules/left/ @left-team\n/migrations/left/ @left-team\n" in text
    assert "tests/modules/left" not in text  # The folder does not exist.


def test_the_written_file_matches_until_an_owner_changes(make: Make) -> None:
    write(make('owner="left-team"'))
    assert list(owners.check(make('owner="left-team"'))) == []
    [found] = owners.check(make('owner="right-team"'))
    assert (found.path, found.rule) == (".github/CODEOWNERS", "owned")


def test_other_lines_stay(make: Make) -> None:
    project = make('owner="left-team"')
    path = project.root / "CODEOWNERS"
    path.write_text("*.md @writers\n")
    write(project)
    path.write_text(path.read_text() + "/deploy/ @operators\n")
    text = write(make('owner="right-team"'))
    assert text.startswith("*.md @writers\n\n# Written by")
    assert text.endswith("/deploy/ @operators\n")
    assert "@right-team" in text
    assert "@left-team" not in text


def test_team_names_can_be_mapped_to_the_forge(make: Make) -> None:
    project = make('owner="left-team"')
    (project.root / "pyproject.toml").write_text('[tool.kernel.boundaries]\nteam = "@acme/{}"\n')
    assert "/modules/left/ @acme/left-team" in owners.written(project)


@pytest.mark.parametrize("manifest", ["", 'owner=""', 'owner="  "', "owner=TEAM"])
def test_a_module_without_an_owner_is_found(make: Make, manifest: str) -> None:
    project = make(manifest)
    write(project)
    assert "left has no owner" in next(owners.check(project)).why
