"""All rules, one report."""

from collections.abc import Callable, Iterator

from walls import bases, histories, imports, layers, linter, lock, owners, tables, values
from walls.findings import COULD_NOT_CHECK, Finding
from walls.project import Project

# What is documented in docs/boundaries.md, a section each.
RULES = (
    "contract-only",
    "declared",
    "acyclic",
    "kernel-clean",
    "layers",
    "own-tables",
    "values-only",
    "contract-lock",
    "owned",
    "one-metadata",
    "one-history",
)
_CHECKS: tuple[Callable[[Project], Iterator[Finding]], ...] = (
    linter.check,
    imports.check,
    layers.check,
    tables.check,
    bases.check,
    histories.check,
    values.check,
    lock.check,
    owners.check,
)


def check(project: Project) -> list[Finding]:
    """Everything that is found in the project, in the order of its files; nothing of it is imported.

    A line is reported once for each rule.
    """
    found = list(project.problems)
    for one in _CHECKS:
        try:
            found.extend(one(project))
        except Exception as error:  # noqa: BLE001  # whatever it is, what this check looks at was not looked at
            name = one.__module__.rpartition(".")[2]
            why = f"The check of {name} broke off ({type(error).__name__}: {error}), so some walls were not looked at."
            instead = "Take out what is unusual in the last change, and report it: a check must read any file."
            found.append(Finding("modules", 0, COULD_NOT_CHECK, why, instead))
    unique = {(each.path, each.line, each.rule, each.why if not each.line else ""): each for each in reversed(found)}
    return sorted(unique.values())
