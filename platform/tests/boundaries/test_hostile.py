"""The checks find every form of the hostile set, and refuse no valid form."""

from pathlib import Path

import pytest

from kernel.ext.boundaries import imports, sql, tables
from kernel.ext.boundaries.project import Project
from kernel.ext.boundaries.violations import base
from tests.boundaries.hostile import imports as by_name
from tests.boundaries.hostile import python
from tests.boundaries.hostile import sql as texts
from tests.boundaries.hostile.unreadable import UNREADABLE

OWNERS = {"rights": "right"}


def names_right(text: str) -> bool:
    """Return whether a text of the module `left` is refused."""
    named = sql.tables(text)
    return any(
        schema == "right" or (schema in {None, "unknown_"} and table == "rights") for schema, table in named
    ) or bool(list(sql.forbidden(text, "left")))


@pytest.mark.parametrize("text", texts.HOSTILE)
def test_sql_that_reaches_another_module_is_found(text: str) -> None:
    assert names_right(text)


@pytest.mark.parametrize("text", texts.VALID)
def test_valid_sql_is_not_refused(text: str) -> None:
    assert not names_right(text)


_HEAD = "from sqlalchemy import func, literal_column, select, text\n\nfrom modules.left.models import Left\n"
_MIGRATION = "import sqlalchemy as sa\nfrom alembic import op\n\n\ndef upgrade() -> None:\n    {}\n"


def repository(form: str) -> str:
    """Return a file with a form: the part before `---` at the top, the rest in a function that is never called."""
    top, _, body = form.rpartition("\n---\n")
    lines = body.replace("\n", "\n    ")
    return f"{_HEAD}\n{top}\n\n\ndef entry(session, connection, name):\n    {lines}\n"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return the files with findings. Each form has a file of its own."""
    root = tmp_path_factory.mktemp("hostile")
    files = {"modules/__init__.py": "", **base.base()}
    del files["modules/left/repository.py"]
    files["modules/left/repository/__init__.py"] = files["modules/left/service.py"] = '"""Forms."""\n'
    unreadable = [f"session.execute(text({one}))" for one in UNREADABLE.values()]
    repositories = {"hostile": python.REPOSITORY, "valid": python.VALID_REPOSITORY, "unreadable": unreadable}
    for kind, forms in repositories.items():
        files |= {f"modules/left/repository/{kind}_{n}.py": repository(form) for n, form in enumerate(forms)}
    for kind, forms in {"hostile": python.MIGRATIONS, "valid": python.VALID_MIGRATIONS}.items():
        files |= {f"migrations/left/{kind}_{n}.py": _MIGRATION.format(form) for n, form in enumerate(forms)}
    files["migrations/left/sql/right.sql"] = "TRUNCATE rights"
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    (root / "migrations/left/right.sql").write_text("TRUNCATE rights")
    project = Project(root)
    assert project.problems == []
    return {one.path for one in tables.check(project)}


@pytest.mark.parametrize("number", range(len(python.REPOSITORY)))
def test_python_that_reaches_another_module_is_found(found: set[str], number: int) -> None:
    assert f"modules/left/repository/hostile_{number}.py" in found, python.REPOSITORY[number]


@pytest.mark.parametrize("number", range(len(python.MIGRATIONS)))
def test_a_migration_that_reaches_another_module_is_found(found: set[str], number: int) -> None:
    assert f"migrations/left/hostile_{number}.py" in found, python.MIGRATIONS[number]


@pytest.mark.parametrize("number", range(len(python.VALID_REPOSITORY)))
def test_valid_python_is_not_refused(found: set[str], number: int) -> None:
    assert f"modules/left/repository/valid_{number}.py" not in found, python.VALID_REPOSITORY[number]


@pytest.mark.parametrize("number", range(len(python.VALID_MIGRATIONS)))
def test_a_valid_migration_is_not_refused(found: set[str], number: int) -> None:
    assert f"migrations/left/valid_{number}.py" not in found, python.VALID_MIGRATIONS[number]


@pytest.mark.parametrize("number", range(len(UNREADABLE)))
def test_the_documentation_lists_the_code_that_the_checks_cannot_read(found: set[str], number: int) -> None:
    assert f"modules/left/repository/unreadable_{number}.py" not in found
    page = (Path(__file__).parents[3] / "docs/boundaries-data.md").read_text()
    assert list(UNREADABLE)[number] in " ".join(page.split())


def test_a_sql_file_is_checked(found: set[str]) -> None:
    assert "migrations/left/sql/right.sql" in found


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return the files with findings of the rule contract-only. Each form has a file of its own."""
    root = tmp_path_factory.mktemp("imports")
    files = {"modules/__init__.py": "", **base.base()}
    for kind, forms in {"hostile": by_name.HOSTILE, "valid": by_name.VALID}.items():
        files |= {f"modules/left/service/{kind}_{n}.py": repository(form) for n, form in enumerate(forms)}
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    return {one.path for one in imports.check(Project(root)) if one.rule == "contract-only"}


@pytest.mark.parametrize("number", range(len(by_name.HOSTILE)))
def test_an_import_by_name_of_another_module_is_found(imported: set[str], number: int) -> None:
    assert f"modules/left/service/hostile_{number}.py" in imported, by_name.HOSTILE[number]


@pytest.mark.parametrize("number", range(len(by_name.VALID)))
def test_a_valid_import_by_name_is_not_refused(imported: set[str], number: int) -> None:
    assert f"modules/left/service/valid_{number}.py" not in imported, by_name.VALID[number]
