"""Select the tests that a change needs: of its modules, of users of a changed contract, and of a changed helper."""

import ast
import difflib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from kernel.ext.boundaries.git import Git
from kernel.ext.boundaries.helpers import importing
from kernel.ext.boundaries.ledger import FILE as LEDGER
from kernel.ext.boundaries.sources import Source, constant

_BOUNDARIES = "tests/boundaries"


class ScopeError(Exception):
    """Raised if the tests cannot be selected. The message says what to do."""


@dataclass(frozen=True)
class Selection:
    """The selected tests."""

    # The commit that the project is compared with.
    base: str
    # Modules, each with the reason why its tests run.
    modules: dict[str, str]
    # Other tests that import a changed helper, each with the reason.
    tests: dict[str, str]
    # The reason why all tests run, or None.
    everything: str | None
    # The folders and files to run.
    paths: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """Return one line for each selected part, with the reason."""
        rows = [("boundaries", f"always (compared with {self.base[:9]})")]
        if self.everything is None:
            rows += [*sorted(self.modules.items()), *sorted(self.tests.items())]
        else:
            rows += [("everything", self.everything)]
        width = max(len(name) for name, _ in rows)
        for name, reason in rows:
            yield f"{name:{width}}  {reason}"


def select(root: Path, named: Collection[str] = (), revision: str | None = None, *, by_change: bool) -> Selection:
    """Select the tests of the named modules and, `by_change`, of those that differ from `revision` (see Git.base).

    Raises ScopeError and GitError.
    """
    known = {folder.parent.name for folder in (root / "modules").glob("*/module.py")}
    for name in named:
        if name not in known:
            raise ScopeError(_unknown(name, known))
    git = Git(root)
    base = git.base(revision)
    chosen = dict.fromkeys(named, "named")
    everything = None
    changed: list[str] = []
    if by_change:
        changed = git.changed(base)
        places = _places(changed)
        everything = places.pop("", None)
        chosen |= {
            name: reason if name in known or (root / "modules" / name).exists() else f"modules/{name} was deleted"
            for name, reason in places.items()
            if name not in chosen
        }
    for name in list(chosen):
        if _contract_differs(root, git, base, name):
            for other in _dependents(root, name):
                chosen.setdefault(other, f"depends on {name}, whose contract differs from {base[:9]}")
    for name in chosen:
        if not (root / "tests/modules" / name).is_dir():
            chosen[name] += f" (but there is no tests/modules/{name})"
    folders = [_BOUNDARIES, *(f"tests/modules/{name}" for name in sorted(chosen))]
    paths = [folder for folder in folders if (root / folder).is_dir()]
    tests = {
        path: f"imports {helper}, which changed"
        for path, helper in importing(root, changed).items()
        if not path.startswith(tuple(f"{folder}/" for folder in paths))
    }
    return Selection(base, chosen, tests, everything, (*paths, *tests))


def _unknown(name: str, known: Collection[str]) -> str:
    meant = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {meant[0]}?" if meant else f"There are: {', '.join(sorted(known)) or 'none'}."
    return f"There is no module {name}. {hint}"


def _places(changed: Collection[str]) -> dict[str, str]:
    """Return the modules of changed files, each with the reason; "" for files that concern all modules."""
    found: dict[str, list[str]] = {}
    for path in changed:
        match path.split("/"):
            case ["modules" | "migrations", name, _, *_] | ["tests", "modules", name, _, *_]:
                found.setdefault(name, []).append(path)
            case ["docs", *_] | ["tests", "boundaries", *_]:
                pass  # the boundary checks always run
            case [*_, file] if file.endswith(".md") or file in {"CODEOWNERS", LEDGER}:
                pass  # only the boundary checks read these
            case _:
                found.setdefault("", []).append(path)
    others = {name: f" and {len(paths) - 1} more" if len(paths) > 1 else "" for name, paths in found.items()}
    return {name: f"{paths[0]}{others[name]} changed" for name, paths in found.items()}


def _contract_differs(root: Path, git: Git, base: str, module: str) -> bool:
    """Return whether a contract differs from that of a commit in more than comments, docstrings and layout."""
    folder = f"modules/{module}"
    now = {file.relative_to(root).as_posix() for file in (root / folder).rglob("*.py")}
    return _contract(module, git.files(base, folder), lambda path: git.text(base, path)) != _contract(
        module, now, lambda path: (root / path).read_text("utf-8", "surrogateescape")
    )


def _contract(module: str, files: Collection[str], read: Callable[[str], str]) -> dict[str, str]:
    """Return the meaning of each file of a contract: contract.py or contract/, and the module's files they import."""
    home = f"modules/{module}/contract"
    meanings: dict[str, str] = {}
    unread = [path for path in files if path == f"{home}.py" or path.startswith(f"{home}/")]
    while unread:
        path = unread.pop()
        if path not in meanings:
            meanings[path], imported = _meaning(path, read(path))
            places = [name.replace(".", "/") for name in imported]
            unread += [file for place in places for file in (f"{place}.py", f"{place}/__init__.py") if file in files]
    return meanings


def _meaning(path: str, text: str) -> tuple[str, list[str]]:
    """Return the syntax tree of a file without docstrings, and the dotted names that it imports."""
    try:
        source = Source(path, path.removesuffix(".py").removesuffix("/__init__").replace("/", "."), text)
        tree = ast.parse(text)  # not that of the source: this one is changed
    except (SyntaxError, ValueError):
        return text, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [
                one for one in node.body if not (isinstance(one, ast.Expr) and constant(one.value) is not None)
            ]
    return ast.dump(tree), [name for found in source.imports for name in (found.source, found.name) if name]


def _dependents(root: Path, module: str) -> Iterator[str]:
    """Return the modules whose manifest names this module, or has computed dependencies."""
    for manifest in sorted((root / "modules").glob("*/module.py")):
        names = _depends_on(manifest.read_text("utf-8", "surrogateescape"))
        if manifest.parent.name != module and (names is None or module in names):
            yield manifest.parent.name


def _depends_on(text: str) -> set[str] | None:
    """Return the dependencies that a manifest declares; None if they are not literals."""
    try:
        tree = ast.parse(text)
        named = [node for node in ast.walk(tree) if isinstance(node, ast.keyword)]
        values = [node.value for node in named if node.arg in {"depends_on", None}]  # None: **options
        return {name for value in values for name in ast.literal_eval(value)}
    except (SyntaxError, ValueError, TypeError):
        return None
