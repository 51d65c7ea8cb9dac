"""Find the tests that import a changed test helper, directly or through other helpers."""

import ast
from collections.abc import Collection, Iterator
from fnmatch import fnmatch
from pathlib import Path

from kernel.ext.boundaries.sources import Source, read

_TESTS = ("test_*.py", "*_test.py")


def importing(root: Path, changed: Collection[str]) -> dict[str, str]:
    """Return the tests that import one of these changed files below tests/, each with that file.

    A test is a file; a conftest.py stands for its folder. Names in texts count, too: `-m tests.faults.prober` runs a
    helper in a process of its own.
    """
    used = {source.path: set(_used(source)) for source in _sources(root)}
    reached = {path: path for path in changed if path.startswith("tests/") and path.endswith(".py")}
    waiting = list(reached)
    while waiting:
        helper = waiting.pop()
        dotted = _dotted(helper)
        for path, names in used.items():
            if path not in reached and any(f"{name}.".startswith(f"{dotted}.") for name in names):
                reached[path] = reached[helper]
                waiting.append(path)
    found = {path: helper for path, helper in reached.items() if path != helper}
    return {_run_as(path): helper for path, helper in sorted(found.items()) if _is_run(path)}


def _is_run(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name == "conftest.py" or any(fnmatch(name, pattern) for pattern in _TESTS)


def _run_as(path: str) -> str:
    return path.removesuffix("/conftest.py")


def _sources(root: Path) -> Iterator[Source]:
    for file in sorted((root / "tests").rglob("*.py")):
        path = file.relative_to(root).as_posix()
        try:
            yield read(path, _dotted(path), file.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue  # pytest reports it


def _used(source: Source) -> Iterator[str]:
    """Return the dotted names below tests/ that a file imports or contains as a text."""
    for found in source.imports:
        yield from (name for name in (found.name, found.source) if name and name.startswith("tests."))
    for node in source.nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("tests."):
            yield node.value


def _dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
