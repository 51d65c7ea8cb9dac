"""Collect the files of modules and the rules that extensions add to the boundary checks.

Runs in the process of `kernel.ext.boundaries.imported`: loading the extensions takes longer than most checks.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kernel.ext.boundaries.findings import COULD_NOT_CHECK, Finding
from kernel.ext.boundaries.project import Project
from kernel.extension import Extension, ExtensionError, load_extensions


def collect(root: Path) -> dict[str, Any]:
    """Load the extensions, and apply their rules to the modules of the project."""
    try:
        extensions = load_extensions(root)
    except ExtensionError as error:
        return {"problem": str(error)}
    files = {file: layer for extension in extensions for file, layer in extension.module_files.items()}
    return {"files": files, "findings": [finding for one in extensions for finding in _applied(one(), root)]}


def _applied(extension: Extension, root: Path) -> Iterator[Finding]:
    """Apply the rules of an extension. A rule that fails is a finding."""
    for rule in extension.rules():
        try:
            for module, files in _parsed(root):
                yield from (
                    Finding(one.path, one.line, rule.name, one.why, one.instead) for one in rule.check(module, files)
                )
        except Exception as error:  # noqa: BLE001  # any failure means that this rule was not checked
            why = f"The rule {rule.name} of the extension {extension.name} failed ({type(error).__name__}: {error})."
            yield Finding("modules", 0, COULD_NOT_CHECK, why, "Correct the rule: it must be able to read every file.")


def _parsed(root: Path) -> Iterator[tuple[str, dict[str, ast.Module]]]:
    """Return each module with its files. `Project` reports those that cannot be parsed."""
    for folder in sorted((root / "modules").glob("*/")):
        files = {}
        for file in sorted(folder.rglob("*.py")):
            try:
                files[file.relative_to(root).as_posix()] = ast.parse(file.read_bytes())
            except (OSError, SyntaxError, ValueError):
                continue
        if files:
            yield folder.name, files


def check(project: Project) -> Iterator[Finding]:
    """Return the findings of the rules that extensions add."""
    facts = project.facts.get("extensions", {})
    if problem := facts.get("problem"):
        why = f"The extensions could not be loaded: {problem}"
        yield Finding("pyproject.toml", 0, COULD_NOT_CHECK, why, "Correct that first: their rules were not checked.")
    yield from facts.get("findings", ())
