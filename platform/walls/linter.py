"""What import-linter says of importlinter.ini, as findings; and that it saw every file."""

import importlib.util
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from grimp import ImportGraph
from importlinter import configuration
from importlinter.application import use_cases

from walls.findings import COULD_NOT_CHECK, Finding
from walls.project import RANKS, Project

CONFIGURATION = "importlinter.ini"

# Each contract of importlinter.ini by its id, with the rule that it is part of. Another is a rule of its own.
_RULES = {
    "roots": "kernel-clean",
    "contract-only": "contract-only",
    "no-circles": "acyclic",
    "empty-init": "layers",
    "module-layers": "layers",
    "plain-contracts": "values-only",
    "no-sql-in-routers": "kernel-clean",
    "no-web-in-repositories": "kernel-clean",
    "drivers": "kernel-clean",
    "kernel-floors": "kernel-clean",
}
# Those that every project with modules needs.
_NEEDED = ("roots", "contract-only", "no-circles", "empty-init", "module-layers", "plain-contracts", "drivers")


def check(project: Project) -> Iterator[Finding]:
    """Run the linter. What keeps it from seeing a file or a wall is a finding as well."""
    if not (project.root / CONFIGURATION).is_file():
        yield _problem("There is no importlinter.ini, so no import is looked at.", "Take the one of a new project.")
        return
    try:
        configuration.configure()
        options = use_cases.read_user_options(str(project.root / CONFIGURATION))
        graph, checks = _linted(project, options)
    except Exception as error:  # noqa: BLE001  # whatever it is, the walls were not looked at
        yield _problem(f"import-linter could not look at the imports ({error}).", "Mend that first; no wall holds.")
        return
    yield from _unseen(project, graph)
    yield from _missing(options.contracts_options)
    yield from _unmatched(options.contracts_options, graph)
    for contract, result in checks:
        [given] = [one for one in options.contracts_options if one["name"] == contract.name]
        rule = _RULES.get(given["id"], given["id"])
        for importer, imported, lines, why in _breaches(contract.name, result.metadata, graph):
            path = _path(project, importer)
            yield Finding(path, lines[0] if lines else 0, rule, why.format(importer, imported), _instead(given))


def _linted(project: Project, options: Any) -> tuple[ImportGraph, list[Any]]:
    """The graph of imports, and each contract with what came of it."""
    with _importable(project.root, project.root / "platform"):
        return _linted_there(project, options)


@contextmanager
def _importable(*places: Path) -> Iterator[None]:
    """The linter looks for packages where Python would; whoever comes after it shall not."""
    before = list(sys.path)
    sys.path[:0] = [str(place) for place in reversed(places) if str(place) not in before]
    try:
        yield
    finally:
        sys.path[:] = before


def _linted_there(project: Project, options: Any) -> tuple[ImportGraph, list[Any]]:
    for name in ("kernel", "modules"):
        home = project.root / ("platform" if name == "kernel" else "") / name
        found = importlib.util.find_spec(name)
        if home.is_dir() and (found is None or Path(str(found.origin)).parent.resolve() != home.resolve()):
            where = None if found is None else found.origin
            raise RuntimeError(f"{name} would be that of {where}, not that of {home}")
    use_cases._register_contract_types(options)
    # Without its cache, which goes by the files' times; it saves little. What it prints is its progress.
    with redirect_stdout(io.StringIO()):
        report = use_cases.create_report(options, cache_dir=None)
    if report.could_not_run:
        broken = "; ".join(f"{name}: {error.errors}" for name, error in report.invalid_contract_options.items())
        raise RuntimeError(f"importlinter.ini has contracts that make no sense: {broken}")
    return report.graph, list(report.get_contracts_and_checks())


def _breaches(name: str, metadata: Any, graph: ImportGraph) -> Iterator[tuple[str, str, tuple[int, ...], str]]:
    """Importer, imported, lines and a sentence with a place for each, from what each kind of contract leaves behind."""
    wall = name[0].lower() + name[1:]
    direct = f"{{}} imports {{}}: {wall}."
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
                why = f"{{}} leads to {{}}{through}: {wall}." if through else direct
                yield start["importer"], last["imported"], start["line_numbers"], why
    for unplaced in sorted(metadata.get("undeclared_modules", ())):
        yield unplaced, "", (0,), f"{{}} has no place in a layer: {wall}."
    for breakers in metadata.get("cycle_breakers_by_package", {}).values():
        for importer, imported in sorted(breakers):
            lines = tuple(
                detail["line_number"] for detail in graph.get_import_details(importer=importer, imported=imported)
            )
            yield importer, imported, lines, f"{{}} imports {{}}, which closes a circle: {wall}."


def _unseen(project: Project, graph: ImportGraph) -> Iterator[Finding]:
    """Files that the linter passed over: it goes into no folder without an __init__.py, and says nothing."""
    for dotted, source in project.by_name.items():
        if dotted not in graph.modules:
            yield Finding(
                source.path,
                0,
                COULD_NOT_CHECK,
                "import-linter does not see this file, so no wall holds here.",
                "Give its folder an __init__.py with a docstring.",
            )


def _missing(contracts: list[dict[str, Any]]) -> Iterator[Finding]:
    for name in sorted(set(_NEEDED) - {one["id"] for one in contracts}):
        yield _problem(
            f"The contract [importlinter:contract:{name}] is missing, and with it a part of {_RULES[name]}.",
            "Put it back as it is in a new project.",
        )


def _unmatched(contracts: list[dict[str, Any]], graph: ImportGraph) -> Iterator[Finding]:
    """Wildcards that matched nothing. A layer that no module has yet is in order; a misspelled one is not."""
    for contract in contracts:
        for option in ("source_modules", "forbidden_modules", "protected_modules", "containers", "ancestors"):
            for expression in contract.get(option, []):
                is_known = expression in {"modules.*", "modules.**"} or expression.rpartition(".")[2] in RANKS
                if "*" in expression and not is_known and not graph.find_matching_modules(expression):
                    yield _problem(f"{expression} of {contract['id']} matches no file.", "Correct it or take it out.")
        for layer in _layers(contract):
            if contract.get("containers") == ["modules.*"] and layer not in RANKS:
                yield _problem(f"{contract['id']} has a layer {layer} that the walls do not know.", "Correct the name.")


def _layers(contract: dict[str, Any]) -> Iterator[str]:
    for line in contract.get("layers", []):
        yield from (name.strip(" ()") for name in line.replace(":", "|").split("|"))


def _instead(contract: dict[str, Any]) -> str:
    given = contract.get("broken_contract_guidance", "")
    guidance = " ".join((given if isinstance(given, str) else " ".join(given)).split())
    return guidance.partition(" See docs/")[0] or "Take the import out."


def _path(project: Project, dotted: str) -> str:
    source = project.by_name.get(dotted)
    return source.path if source else "modules/__init__.py" if dotted == "modules" else CONFIGURATION


def _problem(why: str, instead: str) -> Finding:
    return Finding(CONFIGURATION, 0, COULD_NOT_CHECK, why, instead)
