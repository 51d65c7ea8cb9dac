"""The boundary checks use no private names of libraries."""

import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from grimp import ImportGraph
from importlinter import ContractCheck
from importlinter.contracts.forbidden import ForbiddenContract
from packaging.requirements import Requirement

from kernel.ext.boundaries import linter
from kernel.ext.boundaries.findings import COULD_NOT_CHECK
from kernel.ext.boundaries.project import Project
from kernel.ext.boundaries.sources import Source

# The distributions of each package that can be imported; computing them takes a second.
DISTRIBUTIONS = packages_distributions()


def private_names(root: Path, folder: str) -> Iterator[str]:
    """Return the private names of libraries that the files of a folder import, as `starlette._utils.get_route_path`."""
    for path in sorted((root / folder).rglob("*.py")):
        dotted = ".".join(path.relative_to(root / "platform").with_suffix("").parts)
        source = Source(path.relative_to(root).as_posix(), dotted, path.read_bytes())
        imported = tuple(source.names.values())
        named = (source.named(node) or "" for node in source.nodes)
        used = [*(found.name for found in source.imports), *(name for name in named if name.startswith(imported))]
        for name in used:
            first, *rest = name.split(".")
            is_library = first not in sys.stdlib_module_names and first in DISTRIBUTIONS and first != "kernel"
            if is_library and any(part.startswith("_") and not part.startswith("__") for part in rest):
                yield name


def test_the_boundary_checks_use_no_private_name(root: Path) -> None:
    assert set(private_names(root, "platform/kernel/ext/boundaries")) == set()


def test_a_library_of_which_the_kernel_uses_a_private_name_has_an_upper_bound(root: Path) -> None:
    project = tomllib.loads((root / "platform/pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    bounded = {one.name for one in map(Requirement, declared) if any(each.operator == "<" for each in one.specifier)}
    used = {name.partition(".")[0] for name in private_names(root, "platform/kernel")}
    assert used, "this test has found no private name: it looks at the wrong files"
    assert {library for library in used if not bounded & set(DISTRIBUTIONS[library])} == set()


class Silent(ForbiddenContract):
    """A broken contract that does not report where, as a new version of import-linter might do."""

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        return ContractCheck(kept=False, metadata={"in_other_words": [1]})


def test_a_broken_contract_that_names_no_import_is_a_finding(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(linter.TYPES, "forbidden", Silent)
    found = [one for one in linter.check(Project(root)) if "The contract drivers is broken" in one.why]
    assert [one.rule for one in found] == [COULD_NOT_CHECK]
