"""Models, migrations and routers are imported, and checked by the metadata of their libraries."""

from pathlib import Path

import pytest

from kernel.ext.boundaries import bases, guarded, tables
from kernel.ext.boundaries.findings import COULD_NOT_CHECK, Finding
from kernel.ext.boundaries.project import Project
from kernel.ext.boundaries.self_test import applied
from kernel.ext.boundaries.violations import Case, base, edit

pytestmark = pytest.mark.integration


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a project of two modules without findings."""
    for path, text in {"modules/__init__.py": "", **base.base()}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def judged(copy: Path) -> list[Finding]:
    project = Project(copy)
    problem = [Finding("modules", 0, COULD_NOT_CHECK, why, "") for why in [project.facts.get("problem")] if why]
    return [*problem, *tables.check(project), *bases.check(project), *guarded.check(project)]


def test_nothing_is_found_in_a_clean_project(copy: Path) -> None:
    assert judged(copy) == []


UNIMPORTABLE = {
    "models that raise": ('raise LookupError("no such table")', "LookupError: no such table"),
    "models that end the process": ("import os\nos._exit(7)", "ended the process with exit code 7"),
    "models that exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "models with an invalid mapping": (
        'class A(Base):\n    __tablename__ = "a"\n',
        "could not assemble any primary key columns",
    ),
}


@pytest.mark.parametrize("case", UNIMPORTABLE)
def test_models_that_cannot_be_imported_are_a_finding_with_its_reason(copy: Path, case: str) -> None:
    code, reason = UNIMPORTABLE[case]
    with applied(copy, edit("", "modules/left/models.py", code)):
        found = judged(copy)
    assert any(one.rule == COULD_NOT_CHECK and reason in one.why for one in found), found


STATEMENTS_OF_MIGRATIONS = {
    "a text file": 'op.execute(__import__("pathlib").Path(__file__).with_name("more.sql").read_text())',
    "a computed name": 'op.execute("DROP TABLE " + "".join(chr(n) for n in b"rights"))',
    "a loop": 'for side in ("right",):\n        op.drop_column(f"{side}s", "id")',
    "a connection": 'op.get_bind().execute(sa.text("".join(["DELETE FROM ", "rig", "hts"])))',
    "after a query for rows": 'list(op.get_bind().execute(sa.text("SELECT 1")))\n    op.drop_table("rig" + "hts")',
    "a table that is reflected by name": 'sa.Table("rights", sa.MetaData(), sa.Column("id")).drop(op.get_bind())',
}


@pytest.mark.parametrize("case", STATEMENTS_OF_MIGRATIONS)
def test_a_statement_of_a_migration_is_found_however_it_is_written(copy: Path, case: str) -> None:
    last = '    op.drop_table("lefts")'
    changed = f"{last}\n    {STATEMENTS_OF_MIGRATIONS[case]}"
    files = {"migrations/left/0001_first.py": (last, changed), "migrations/left/more.sql": "TRUNCATE rights"}
    with applied(copy, Case("", files)):
        found = judged(copy)
    assert ("migrations/left/0001_first.py", "own-tables") in {(one.path, one.rule) for one in found}
