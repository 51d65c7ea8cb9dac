"""The ledger of accepted findings: it shrinks, and nothing slips in."""

import json
import subprocess
from pathlib import Path

import pytest

from kernel.ext.boundaries import ledger
from kernel.ext.boundaries.findings import Finding
from kernel.ext.boundaries.project import Project


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


def test_without_a_ledger_everything_is_new(project: Project) -> None:
    assert ledger.apply(project.root, [finding()]) == [finding()]


def test_what_was_accepted_is_silent_wherever_the_line_has_moved(project: Project) -> None:
    assert ledger.write(project, [finding(1), finding(5)]) == (2, [])
    assert ledger.apply(project.root, [finding(70), finding(80)]) == []


def test_a_new_finding_fails_beside_the_accepted(project: Project) -> None:
    ledger.write(project, [finding()])
    new = finding(why="It reaches elsewhere.")
    assert ledger.apply(project.root, [finding(), new]) == [new]


def test_the_same_once_more_is_new(project: Project) -> None:
    ledger.write(project, [finding(1)])
    assert ledger.apply(project.root, [finding(1), finding(9)]) == [finding(9)]


def test_the_ledger_names_the_owner_of_each(project: Project) -> None:
    ledger.write(project, [finding(), finding(path="importlinter.ini")])
    debts = json.loads((project.root / ledger.FILE).read_text())["debts"]
    assert [(one["path"], one["owner"]) for one in debts] == [
        ("importlinter.ini", None),
        ("modules/left/service.py", "left-team"),
    ]


def test_a_paid_debt_must_be_struck_out(project: Project) -> None:
    ledger.write(project, [finding(), finding(why="Other.")])
    [stale] = ledger.apply(project.root, [finding()])
    assert (stale.rule, stale.path) == ("ledger", ledger.FILE)
    assert ledger.write(project, [finding()]) == (1, [])
    assert ledger.apply(project.root, [finding()]) == []


def test_writing_again_accepts_nothing_new(project: Project) -> None:
    ledger.write(project, [finding()])
    new = finding(why="It reaches elsewhere.")
    assert ledger.write(project, [finding(), new]) == (1, [new])
    assert ledger.apply(project.root, [finding(), new]) == [new]


def test_a_ledger_that_was_lengthened_by_hand_is_a_finding(project: Project) -> None:
    ledger.write(project, [finding()])
    commit(project.root)
    (project.root / ledger.FILE).unlink()
    ledger.write(project, [finding(), finding(why="Slipped in.")])
    [grown] = ledger.apply(project.root, [finding(), finding(why="Slipped in.")])
    assert "grown by 1" in grown.why


def test_it_may_not_have_grown_since_the_revision_that_is_named(project: Project) -> None:
    ledger.write(project, [finding()])
    commit(project.root)
    (project.root / ledger.FILE).unlink()
    ledger.write(project, [finding(), finding(why="Slipped in.")])
    commit(project.root)
    assert ledger.apply(project.root, [finding(), finding(why="Slipped in.")]) == []
    [grown] = ledger.apply(project.root, [finding(), finding(why="Slipped in.")], since="HEAD~1")
    assert "grown" in grown.why


def test_a_broken_ledger_says_so(project: Project) -> None:
    (project.root / ledger.FILE).write_text("<<<<<<< HEAD")
    with pytest.raises(ledger.LedgerError, match=r"boundaries\.ledger\.json cannot be read"):
        ledger.apply(project.root, [])
