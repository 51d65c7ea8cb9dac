"""Run all boundary rules."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec

from kernel.ext.boundaries import bases, extended, guarded, histories, imports, layers, linter, owners, tables, values
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


def _contract_lock(project: Project) -> Iterator[Finding]:
    """Compare the contracts with their locks, if the extension `remote` is installed, which compares them."""
    if find_spec("kernel.ext.remote") is not None:
        from kernel.ext.boundaries import lock  # noqa: PLC0415

        yield from lock.check(project)


_CHECKS: tuple[Callable[[Project], Iterator[Finding]], ...] = (
    linter.check,
    imports.check,
    histories.check,
    values.check,
    _contract_lock,
    owners.check,
    # These wait for the import process, which runs while the others check.
    layers.check,
    tables.check,
    bases.check,
    guarded.check,
    extended.check,
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
            name = f"{one.__module__}.{one.__name__}"
            why = f"{name} failed ({type(error).__name__}: {error}), so some rules were not checked."
            instead = "Report this as a bug with the last change: a check must be able to read every file."
            found.append(Finding("modules", 0, COULD_NOT_CHECK, why, instead))
    if problem := project.facts.get("problem"):
        why = f"The modules could not be imported: {problem}."
        found.append(
            Finding("modules", 0, COULD_NOT_CHECK, why, "Correct that first: tables and routes were not checked.")
        )
    unique = {(each.path, each.line, each.rule, each.why if not each.line else ""): each for each in reversed(found)}
    return sorted(unique.values())
