"""Run all boundary rules."""

from collections.abc import Callable, Iterator

from kernel.ext.boundaries import bases, guarded, histories, imports, layers, linter, lock, owners, tables, values
from kernel.ext.boundaries.findings import COULD_NOT_CHECK, Finding
from kernel.ext.boundaries.project import Project

# Each has a section in the documentation.
RULES = (
    "contract-only",
    "declared",
    "acyclic",
    "libraries",
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
    histories.check,
    values.check,
    lock.check,
    owners.check,
    # These wait for the import process, which runs while the others check.
    tables.check,
    bases.check,
    guarded.check,
)


def check(project: Project) -> list[Finding]:
    """Return the findings of all rules, sorted by file. Each rule reports a line once.

    Another process imports the modules meanwhile.
    """
    found = list(project.problems)
    _ = project.import_process  # starts the import process
    for one in _CHECKS:
        try:
            found.extend(one(project))
        except Exception as error:  # noqa: BLE001  # any failure means that this rule was not checked
            name = one.__module__.rpartition(".")[2]
            why = f"The check {name!r} failed ({type(error).__name__}: {error}), so some rules were not checked."
            instead = "Report this as a bug with the last change: a check must be able to read every file."
            found.append(Finding("modules", 0, COULD_NOT_CHECK, why, instead))
    if problem := project.facts.get("problem"):
        why = f"The modules could not be imported: {problem}."
        found.append(
            Finding("modules", 0, COULD_NOT_CHECK, why, "Correct that first: tables and routes were not checked.")
        )
    unique = {(each.path, each.line, each.rule, each.why if not each.line else ""): each for each in reversed(found)}
    return sorted(unique.values())
