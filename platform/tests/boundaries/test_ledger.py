"""The ledger of accepted findings may only shrink."""

import json
import subprocess
from pathlib import Path

import pytest

from kernel.ext.boundaries import ledger
from kernel.ext.boundaries.findings import Finding
from kernel.ext.boundaries.project import Project

pytestmark = pytest.mark.integration


def finding(line: int = 1, why: str = "It reaches too far.", path: str = "modules/left/service.py") -> Finding:
    return Finding(path, line, "contract-only", why, "Ask.")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "modules" / "left"
    folder.mkdir(parents=True)
    (folder / "module.py").write_text('from kernel import Module\n\nmodule = Module(owner="left-team")\n')
    return Project(tmp_path)


def commit(root: Path) -> None:
    for command in (
        ["init", "-q", "-b", "main"],
        ["add", "-A"],
        ["-c", "user.name=T", "-c", "user.email=t@example.com", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *command], cwd=root, check=True)


def test_without_a_ledger_every_finding_is_new(project: Project) -> None:
    assert ledger.apply(project.root, [finding()]) == [finding()]


def test_an_accepted_finding_stays_accepted_when_its_line_moves(project: Project) -> None:
    assert ledger.write(project, [finding(1), finding(5)]) == (2, [])
    assert ledger.apply(project.root, [finding(70), finding(80)]) == []


def test_a_new_finding_beside_an_accepted_one_is_reported(project: Project) -> None:
    ledger.write(project, [finding()])
    new = finding(why="It reaches elsewhere.")
    assert ledger.apply(project.root, [finding(), new]) == [new]


def test_a_second_occurrence_of_an_accepted_finding_is_new(project: Project) -> None:
    ledger.write(project, [finding(1)])
    assert ledger.apply(project.root, [finding(1), finding(9)]) == [finding(9)]


def test_the_ledger_names_the_owner_of_each(project: Project) -> None:
    ledger.write(project, [finding(), finding(path="importlinter.ini")])
    debts = json.loads((project.root / ledger.FILE).read_text())["debts"]
    assert [(one["path"], one["owner"]) for one in debts] == [
        ("importlinter.ini", None),
        ("modules/left/service.py", "left-team"),
    ]


def test_an_entry_without_a_finding_must_be_removed(project: Project) -> None:
    ledger.write(project, [finding(), finding(why="Other.")])
    [stale] = ledger.apply(project.root, [finding()])
    assert (stale.rule, stale.path) == ("ledger", ledger.FILE)
    assert ledger.write(project, [finding()]) == (1, [])
    assert ledger.apply(project.root, [finding()]) == []


def test_writing_the_ledger_again_accepts_no_new_finding(project: Project) -> None:
    ledger.write(project, [finding()])
    new = finding(why="It reaches elsewhere.")
    assert ledger.write(project, [finding(), new]) == (1, [new])
    assert ledger.apply(project.root, [finding(), new]) == [new]


def test_an_entry_added_by_hand_is_a_finding(project: Project) -> None:
    ledger.write(project, [finding()])
    commit(project.root)
    (project.root / ledger.FILE).unlink()
    ledger.write(project, [finding(), finding(why="Slipped in.")])
    [grown] = ledger.apply(project.root, [finding(), finding(why="Slipped in.")])
    assert "grown by 1" in grown.why


def test_the_ledger_may_not_grow_after_a_named_revision(project: Project) -> None:
    ledger.write(project, [finding()])
    commit(project.root)
    (project.root / ledger.FILE).unlink()
    ledger.write(project, [finding(), finding(why="Slipped in.")])
    commit(project.root)
    assert ledger.apply(project.root, [finding(), finding(why="Slipped in.")]) == []
    [grown] = ledger.apply(project.root, [finding(), finding(why="Slipped in.")], since="HEAD~1")
    assert "grown" in grown.why


def test_an_unreadable_ledger_is_an_error(project: Project) -> None:
    (project.root / ledger.FILE).write_text("<<<<<<< HEAD")
    with pytest.raises(ledger.LedgerError, match=r"boundaries\.ledger\.json cannot be read"):
        ledger.apply(project.root, [])
