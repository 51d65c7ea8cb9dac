"""Run import-linter with importlinter.ini, and check that it sees every file."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from grimp import ImportGraph, build_graph
from importlinter import Contract, ContractCheck, __version__
from importlinter.api import read_configuration
from importlinter.contracts.acyclic_siblings import AcyclicSiblingsContract
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.contracts.independence import IndependenceContract
from importlinter.contracts.layers import LayersContract
from importlinter.contracts.protected import ProtectedContract
from importlinter.domain.contract import InvalidContractOptions

from kernel.ext.boundaries import layers
from kernel.ext.boundaries.findings import COULD_NOT_CHECK, Finding
from kernel.ext.boundaries.project import LAYERS, RANKS, Project

CONFIGURATION = "importlinter.ini"

# The rule of each contract of importlinter.ini, by its id. Any other contract is a rule of its own.
_RULES = {
    "contract-only": "contract-only",
    "no-cycles": "acyclic",
    "empty-init": "layers",
    "module-layers": "layers",
    "plain-contracts": "values-only",
    "no-sql-in-routers": "libraries",
    "no-web-in-repositories": "libraries",
    "drivers": "libraries",
}
# The types of contracts, which are classes with a documented interface.
TYPES: dict[str, type[Contract]] = {
    "acyclic_siblings": AcyclicSiblingsContract,
    "forbidden": ForbiddenContract,
    "independence": IndependenceContract,
    "layers": LayersContract,
    "protected": ProtectedContract,
}
# The contracts that every project needs.
_NEEDED = ("contract-only", "no-cycles", "empty-init", "module-layers", "plain-contracts", "drivers")


def check(project: Project) -> Iterator[Finding]:
    """Return the findings of import-linter, and a finding for everything that it cannot see."""
    if not (project.root / CONFIGURATION).is_file():
        yield _problem("There is no importlinter.ini, so no import was checked.", "Copy the file of a new project.")
        return
    try:
        options = read_configuration(str(project.root / CONFIGURATION))
        graph, checks = _linted(project, options)
    except Exception as error:  # noqa: BLE001  # any failure means that no import was checked
        yield _problem(f"import-linter failed ({error}).", "Correct that: no import was checked.")
        return
    contracts = options["contracts_options"]
    yield from _unseen(project, graph)
    yield from _missing(contracts)
    yield from _unmatched(contracts, graph)
    for given, result in checks:
        rule, breaches = _RULES.get(given["id"], given["id"]), list(_breaches(given["name"], result.metadata, graph))
        for importer, imported, lines, why in breaches:
            path, text, instead = _path(project, importer), why.format(importer, imported), _instead(given)
            if (
                given["id"] == "module-layers"
                and (said := layers.between(project.layers, importer, imported)) is not None
            ):
                text, instead = f"{text.partition(': ')[0]}: {said[0]}.", said[1]
            yield Finding(path, lines[0] if lines else 0, rule, text, instead)
        if not result.kept and not breaches:
            why = f"The contract {given['id']} is broken, but import-linter {__version__} does not report where."
            yield _problem(
                why, "Run `lint-imports --config importlinter.ini`, and install a version that pyproject.toml allows."
            )


def _linted(
    project: Project, options: dict[str, Any]
) -> tuple[ImportGraph, list[tuple[dict[str, Any], ContractCheck]]]:
    """Return the graph of imports, and the options of each contract with the result of its check.

    Only documented interfaces are used: reading the configuration, Grimp's graph, and the classes of contracts.
    """
    with _importable(project.root):
        found = importlib.util.find_spec("modules")
        if found is None or Path(str(found.origin)).parent.resolve() != (project.root / "modules").resolve():
            where = None if found is None else found.origin
            raise RuntimeError(f"Python would import the package modules from {where}, not from {project.root}")
        session, checks = options["session_options"], []
        # No cache: it compares modification times, and saves little.
        graph = build_graph(*session["root_packages"], include_external_packages=True, cache_dir=None)
        for given in options["contracts_options"]:
            if given["type"] not in TYPES:
                raise RuntimeError(f"{given['id']} has the type {given['type']!r}; use one of {', '.join(TYPES)}")
            try:
                contract = TYPES[given["type"]](given["name"], session, given)
            except InvalidContractOptions as error:
                raise RuntimeError(f"the contract {given['id']} has invalid options: {error.errors}") from None
            checks.append((given, contract.check(deepcopy(graph), verbose=False)))
        if not checks:
            raise RuntimeError(f"{CONFIGURATION} has no contracts")
        return graph, checks


@contextmanager
def _importable(*places: Path) -> Iterator[None]:
    """Let import-linter import packages from these places; restore the path afterwards."""
    before = list(sys.path)
    sys.path[:0] = [str(place) for place in reversed(places) if str(place) not in before]
    try:
        yield
    finally:
        sys.path[:] = before


def _breaches(name: str, metadata: Any, graph: ImportGraph) -> Iterator[tuple[str, str, tuple[int, ...], str]]:
    """Return importer, imported name, lines and a sentence with two placeholders, from the result of a contract."""
    rule = name[0].lower() + name[1:]
    direct = f"{{}} imports {{}}: {rule}."
    for broken in metadata.get("illegal_imports", ()):
        for link in broken.illegal_links:
            yield link["importer"], link["imported"], link["line_numbers"], direct
    for broken in [*metadata.get("invalid_chains", ()), *metadata.get("invalid_dependencies", ())]:
        for chain in broken.get("chains") or broken.get("routes"):
            links = chain if isinstance(chain, list) else chain["chain"]
            first, last = links[0], links[-1]
            through = f", by way of {', '.join(link['imported'] for link in links[:-1])}" if len(links) > 1 else ""
            starts = [first] if isinstance(chain, list) else [first, *chain["extra_firsts"]]
            for start in starts:
                why = f"{{}} leads to {{}}{through}: {rule}." if through else direct
                yield start["importer"], last["imported"], start["line_numbers"], why
    for unplaced in sorted(metadata.get("undeclared_modules", ())):
        yield unplaced, "", (0,), f"{{}} has no place in a layer: {rule}."
    for breakers in metadata.get("cycle_breakers_by_package", {}).values():
        for importer, imported in sorted(breakers):
            lines = tuple(
                detail["line_number"] for detail in graph.get_import_details(importer=importer, imported=imported)
            )
            yield importer, imported, lines, f"{{}} imports {{}}, which closes a cycle: {rule}."


def _unseen(project: Project, graph: ImportGraph) -> Iterator[Finding]:
    """Find files that import-linter does not see: it skips a folder without __init__.py without a message."""
    for dotted, source in project.by_name.items():
        if dotted not in graph.modules:
            yield Finding(
                source.path,
                0,
                COULD_NOT_CHECK,
                "import-linter does not see this file, so its imports are not checked.",
                "Give its folder an __init__.py with a docstring.",
            )


def _missing(contracts: list[dict[str, Any]]) -> Iterator[Finding]:
    for name in sorted(set(_NEEDED) - {one["id"] for one in contracts}):
        yield _problem(
            f"The contract [importlinter:contract:{name}] is missing, so a part of {_RULES[name]} was not checked.",
            "Copy it from the file of a new project.",
        )


def _unmatched(contracts: list[dict[str, Any]], graph: ImportGraph) -> Iterator[Finding]:
    """Find wildcards without a match, and layers that are missing or in another order.

    A file that no module has yet needs no match, if it has a layer.
    """
    lines = {one["id"]: list(_layers(one)) for one in contracts if one.get("containers") == ["modules.*"]}
    files = {*RANKS, *(name for several in lines.values() for line in several for name in line)}
    for contract in contracts:
        for option in ("source_modules", "forbidden_modules", "protected_modules", "containers", "ancestors"):
            for expression in contract.get(option, []):
                is_known = expression in {"modules.*", "modules.**"} or expression.rpartition(".")[2] in files
                if "*" in expression and not is_known and not graph.find_matching_modules(expression):
                    yield _problem(f"{expression} of {contract['id']} matches no file.", "Correct or remove it.")
    for name, several in lines.items():
        places = [next((place for place, line in enumerate(several) if line.issuperset(one)), -1) for one in LAYERS]
        if places != sorted(places) or -1 in places:
            expected = "; ".join(" | ".join(names) for names in LAYERS)
            yield _problem(f"The layers of {name} are not those of a module.", f"Use, from top to bottom: {expected}.")


def _layers(contract: dict[str, Any]) -> Iterator[set[str]]:
    for line in contract.get("layers", []):
        yield {name.strip(" ()") for name in line.replace(":", "|").split("|")}


def _instead(contract: dict[str, Any]) -> str:
    given = contract.get("broken_contract_guidance", "")
    guidance = " ".join((given if isinstance(given, str) else " ".join(given)).split())
    return guidance.partition(" See docs/")[0] or "Remove the import."


def _path(project: Project, dotted: str) -> str:
    source = project.by_name.get(dotted)
    return source.path if source else "modules/__init__.py" if dotted == "modules" else CONFIGURATION


def _problem(why: str, instead: str) -> Finding:
    return Finding(CONFIGURATION, 0, COULD_NOT_CHECK, why, instead)
