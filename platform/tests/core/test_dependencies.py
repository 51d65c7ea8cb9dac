"""The core needs the packages that it imports, and each extension those of the core and of its extra."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.core.lines import KERNEL

PROJECT = tomllib.loads((KERNEL.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
EXTENSIONS = sorted(path.parent.name for path in (KERNEL / "ext").glob("*/__init__.py"))
# Extras that are not needed to serve.
DEVELOPMENT = {"boundaries", "testing"}
# Packages that no file imports, with the one that loads them.
LOADED_BY = {
    "aiosqlite": "SQLAlchemy, by the URL of the database",
    "fastapi-offline": "kernel.ext.api_docs, which reads its files",
    "uvloop": "uvicorn, where it is installed",
    "websockets": "uvicorn, for a WebSocket",
}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(files: Iterable[Path]) -> Iterator[str]:
    """Yield the distributions that these files import."""
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            else:
                continue
            for name in names:
                yield from distributions_of(name)


def distributions_of(name: str) -> set[str]:
    """Return the distributions that may have this module; several share a namespace package."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top in {"kernel", "__future__"}:
        return set()
    found = {normalized(one) for one in owners().get(top, ())}
    assert found, f"{name} belongs to no installed distribution"
    whole = normalized(name.replace(".", "-"))
    if named := [one for one in found if whole.startswith(one)]:
        return {max(named, key=len)}
    return {min(sorted(found), key=len)}


@cache
def owners() -> dict[str, list[str]]:
    return dict(packages_distributions())


def with_requirements(declared: Iterable[str]) -> set[str]:
    """Return these distributions and those that they require themselves."""
    found = set()
    for text in declared:
        requirement = Requirement(text)
        found.add(normalized(requirement.name))
        try:
            lines = requires(requirement.name) or []
        except PackageNotFoundError:  # For another platform.
            continue
        for line in map(Requirement, lines):
            extras = requirement.extras or {""}
            if line.marker is None or any(line.marker.evaluate({"extra": extra}) for extra in extras):
                found.add(normalized(line.name))
    return found


def names(declared: Iterable[str]) -> set[str]:
    return {normalized(Requirement(text).name) for text in declared}


def extra_of(extension: str) -> list[str]:
    """Return what the extras of an extension declare: `cache`, or `messaging-nats` and others."""
    return [
        text
        for extra, texts in EXTRAS.items()
        if extra == extension or extra.startswith(f"{extension}-")
        for text in texts
    ]


def files_of(part: str) -> list[Path]:
    if part != "core":
        return [path for path in (KERNEL / part).rglob("*.py") if path.name != "testing.py"]
    return [path for path in KERNEL.rglob("*.py") if path.relative_to(KERNEL).parts[0] not in {"ext", "testing"}]


def test_the_core_imports_only_its_dependencies() -> None:
    assert {*imported(files_of("core"))} <= with_requirements(PROJECT["dependencies"])


def test_the_core_depends_on_nothing_that_it_does_not_import() -> None:
    unused = names(PROJECT["dependencies"]) - {*imported(files_of("core"))}
    assert unused <= LOADED_BY.keys()


@pytest.mark.parametrize("name", EXTENSIONS)
def test_an_extension_imports_only_dependencies_of_the_core_and_of_its_extra(name: str) -> None:
    declared = [*PROJECT["dependencies"], *extra_of(name), *(EXTRAS["testing"] if name in DEVELOPMENT else ())]
    # An extension may use packages of the extensions that it requires: rate_limit counts in the Redis of store.
    for other in required_by(name):
        declared += extra_of(other)
    assert {*imported(files_of(f"ext/{name}"))} <= with_requirements(declared)


@pytest.mark.parametrize("name", EXTENSIONS)
def test_an_extra_declares_nothing_that_its_extension_does_not_import(name: str) -> None:
    assert names(extra_of(name)) - {*imported(files_of(f"ext/{name}"))} <= LOADED_BY.keys()


def test_test_support_imports_only_dependencies_of_the_core_and_of_its_extra() -> None:
    files = [*files_of("testing"), *(KERNEL / "ext").glob("*/testing.py")]
    found = {*imported(files)} - {"mypy"}  # mypy imports its plugin itself.
    assert found <= with_requirements([*PROJECT["dependencies"], *EXTRAS["testing"]])


def test_the_extra_all_contains_every_extra_that_is_needed_to_serve() -> None:
    [everything] = map(Requirement, EXTRAS["all"])
    assert everything.extras == EXTRAS.keys() - DEVELOPMENT - {"all"}


def required_by(name: str) -> list[str]:
    """Return the `requires` of an extension, read from its source."""
    file = KERNEL / "ext" / name / "extension.py"
    if not file.exists():
        return []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "requires":
            return list(ast.literal_eval(node.value))
    return []
