"""All rules, one report."""

from collections.abc import Callable, Iterator

from kernel.ext.boundaries import bases, guarded, histories, imports, layers, linter, lock, owners, tables, values
from kernel.ext.boundaries.findings import COULD_NOT_CHECK, Finding
from kernel.ext.boundaries.project import Project

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
    histories.check,
    values.check,
    lock.check,
    owners.check,
    # These wait for the import, which runs beside the others.
    tables.check,
    bases.check,
    guarded.check,
)


def check(project: Project) -> list[Finding]:
    """Return everything that is found in the project, in the order of its files.

    A process of its own imports the modules meanwhile. A line is reported once for each rule.
    """
    found = list(project.problems)
    _ = project.import_process  # begins to import
    for one in _CHECKS:
        try:
            found.extend(one(project))
        except Exception as error:  # noqa: BLE001  # whatever it is, what this check looks at was not looked at
            name = one.__module__.rpartition(".")[2]
            why = f"The check of {name} broke off ({type(error).__name__}: {error}), so some walls were not looked at."
            instead = "Take out what is unusual in the last change, and report it: a check must read any file."
            found.append(Finding("modules", 0, COULD_NOT_CHECK, why, instead))
    if problem := project.facts.get("problem"):
        why = f"The modules could not be imported: {problem}."
        found.append(
            Finding("modules", 0, COULD_NOT_CHECK, why, "Correct that first; tables and routes were not looked at.")
        )
    unique = {(each.path, each.line, each.rule, each.why if not each.line else ""): each for each in reversed(found)}
    return sorted(unique.values())
