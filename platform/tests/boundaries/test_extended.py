"""Extensions, also those of third parties, add files to the layers of a module, and rules."""

from pathlib import Path

import pytest

from kernel.ext.boundaries import extended, layers
from kernel.ext.boundaries.findings import COULD_NOT_CHECK, Finding
from kernel.ext.boundaries.project import Project
from kernel.ext.boundaries.self_test import applied
from kernel.ext.boundaries.violations import base, edit

pytestmark = pytest.mark.integration

AUDIT = '''"""Audits, by a third party."""

import ast

from kernel.extension import Breach, BoundaryRule, Extension


def no_print(module, files):
    for path, tree in files.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                yield Breach(path, node.lineno, f"{module} prints.", "Use a logger.")


class Audit(Extension):
    name = "audit"
    module_files = {"audits": "router"}

    def rules(self):
        return [BoundaryRule("no-print", no_print)]
'''


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project of two modules without findings, and install a distribution with the extension `audit`."""
    site, root = tmp_path / "site", tmp_path / "project"
    installed = {
        "audit.py": AUDIT,
        "audit-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: audit\nVersion: 1.0\n",
        "audit-1.0.dist-info/entry_points.txt": "[kernel.extensions]\naudit = audit:Audit\n",
    }
    files = {site / path: text for path, text in installed.items()}
    files |= {root / path: text for path, text in {"modules/__init__.py": "", **base.base()}.items()}
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(site)
    return root


def judged(root: Path) -> list[Finding]:
    project = Project(root)
    return [*layers.check(project), *extended.check(project)]


def test_a_rule_of_an_extension_is_applied_to_every_module(copy: Path) -> None:
    assert judged(copy) == []
    with applied(copy, edit("", "modules/left/service.py", 'print("x")')):
        assert judged(copy) == [Finding("modules/left/service.py", 10, "no-print", "left prints.", "Use a logger.")]


def test_a_rule_that_fails_is_a_finding(copy: Path) -> None:
    (copy.parent / "site/audit.py").write_text(
        AUDIT.replace("    for path", "    raise LookupError(module)\n    for path")
    )
    [found] = judged(copy)
    assert found.rule == COULD_NOT_CHECK
    assert "The rule no-print of the extension audit failed (LookupError: left)" in found.why


def test_a_file_of_an_extension_has_a_layer(copy: Path) -> None:
    with applied(copy, edit("", "modules/left/audits.py", "from modules.left import service")):
        assert judged(copy) == []


@pytest.mark.parametrize(
    ("path", "imported", "rule"),
    [
        ("modules/left/audits.py", "modules.left.router", "layers"),
        ("modules/left/router.py", "modules.left.audits", "layers"),
        ("modules/left/service.py", "modules.left.audits", "layers"),
        ("modules/left/words.py", "modules.left.audits", "layers"),
        ("modules/left/audits.py", "modules.left.models", "libraries"),
        ("modules/left/audits.py", "sqlalchemy", "libraries"),
    ],
)
def test_a_file_of_an_extension_follows_the_rules_of_its_layer(copy: Path, path: str, imported: str, rule: str) -> None:
    (copy / "modules/left/audits.py").write_text('"""Audits."""\n')
    with applied(copy, edit("", path, f"import {imported}")):
        [found] = judged(copy)
    assert (found.rule, found.path) == (rule, path)


def test_without_the_extension_its_file_has_no_layer(copy: Path) -> None:
    (copy / "pyproject.toml").write_text('[tool.kernel]\nwithout-extensions = ["audit"]\n')
    with applied(copy, edit("", "modules/left/audits.py", '"""Audits."""')):
        [found] = judged(copy)
    assert (found.rule, found.path) == ("layers", "modules/left/audits.py")


def test_extensions_that_cannot_be_loaded_are_a_finding(copy: Path) -> None:
    (copy / "pyproject.toml").write_text('[tool.kernel]\nextensions = ["ledger"]\n')
    [found] = [one for one in judged(copy) if one.rule == COULD_NOT_CHECK]
    assert found.path == "pyproject.toml"
    assert "ledger: it is not installed" in found.why
