"""Read a project from disk: its modules, their manifests, and every Python file that a rule reads."""

import ast
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from kernel.ext.boundaries.findings import COULD_NOT_CHECK, Finding
from kernel.ext.boundaries.imported import Facts, begin_facts
from kernel.ext.boundaries.sources import Source, argument, constant, read

# The layers of a module, from top to bottom, as in importlinter.ini. Extensions add files to them.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("module",),
    ("router", "commands"),
    ("service",),
    ("repository", "storage"),
    ("models", "schemas"),
    ("settings", "contract"),
)
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def layers_with(files: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    """Return the layers with additional files; each file is given with a file of its layer."""
    return tuple((*names, *sorted(file for file, layer in files.items() if layer in names)) for names in LAYERS)


# The folders with a part of each module, in a folder of its name.
FOLDERS = ("modules", "migrations", "tests/modules")
_KERNEL = Path(__file__).parents[2]


@dataclass
class Slice:
    """One module: its files, and its manifest as it is written."""

    name: str
    sources: list[Source] = field(default_factory=list)
    # From the manifest. A value that is not a literal is a finding, and empty here.
    owner: str | None = None
    # The line of each dependency.
    depends_on: dict[str, int] = field(default_factory=dict)
    # Other files, each with its layer.
    helpers: dict[str, str] = field(default_factory=dict)
    # The line of `Module(...)` in the manifest.
    line: int = 1

    @property
    def path(self) -> str:
        return f"modules/{self.name}"

    @property
    def manifest(self) -> str:
        return f"{self.path}/module.py"

    def part(self, name: str) -> list[Source]:
        """Return the file of this name, or all files of the folder of this name: `models` is models.py or models/."""
        return [one for one in self.sources if part_of(one.dotted) == name]


def part_of(dotted: str) -> str:
    """Return the file or folder of a module that a dotted name is in: `models` for `modules.events.models.tables`."""
    parts = dotted.split(".")
    return parts[2] if len(parts) > 2 else ""


def module_of(dotted: str) -> str | None:
    """Return the module that a dotted name is in."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "modules" else None


def module_at(path: str) -> str | None:
    """Return the module to which a file, migration or test belongs."""
    for folder in FOLDERS:
        name, _, rest = path.removeprefix(f"{folder}/").partition("/")
        if path.startswith(f"{folder}/") and rest:
            return name
    return None


class Project:
    """All files that the rules read, read once. `facts` has what only an import shows, from a separate process.

    A file that cannot be read is among the `problems`, because no rule can check it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.problems: list[Finding] = []
        self.modules: dict[str, Slice] = {}
        # By module; "" for tests and migrations that belong to no module.
        self.tests: dict[str, list[Source]] = {}
        self.migrations: dict[str, list[Source]] = {}
        # SQL files: module, path and text.
        self.sql: list[tuple[str, str, str]] = []
        self._read()

    @cached_property
    def import_process(self) -> Callable[[], Facts]:
        """The import process, which starts on the first access. Call it to wait for the facts."""
        return begin_facts(self.root)

    @cached_property
    def facts(self) -> Facts:
        """The facts that only an import shows: see `kernel.ext.boundaries.imported`."""
        return self.import_process()

    @cached_property
    def extension_files(self) -> Mapping[str, str]:
        """The files of a module that extensions read, each with its layer. Waits for the import process."""
        files: Mapping[str, str] = self.facts.get("extensions", {}).get("files", {})
        return files

    @cached_property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """The layers of a module from top to bottom, with the files of extensions. Waits for the import process."""
        return layers_with(self.extension_files)

    @cached_property
    def strings(self) -> dict[tuple[str, str], list[str]]:
        """A cache of `kernel.ext.boundaries.strings`: the texts that a name stands for, by file and name."""
        return {}

    @cached_property
    def aliases(self) -> dict[tuple[str, str], str]:
        """A cache of `kernel.ext.boundaries.callees`: the dotted name that a name stands for, by file and name."""
        return {}

    @cached_property
    def callees(self) -> dict[str, list[tuple[ast.Call, str]]]:
        """A cache of `kernel.ext.boundaries.callees`: the calls of a file with their functions, by path."""
        return {}

    @cached_property
    def by_name(self) -> dict[str, Source]:
        """The files of the modules, by their dotted names."""
        return {source.dotted: source for _, source in self.of_modules()}

    def source(self, dotted: str) -> Source | None:
        """Return a file of the modules or of the installed kernel by its dotted name."""
        return self.by_name.get(dotted) or _of_kernel(dotted)

    @cached_property
    def tests_by_name(self) -> dict[str, Source]:
        """The tests of the modules, by their dotted names."""
        return {source.dotted: source for owner, sources in self.tests.items() if owner for source in sources}

    def of_modules(self) -> Iterator[tuple[Slice, Source]]:
        """Return every file of every module."""
        for module in self.modules.values():
            for source in module.sources:
                yield module, source

    def definition(self, dotted: str) -> tuple[Source, ast.stmt] | None:
        """Return the definition of a dotted name, through imports of the project's files; None if it is elsewhere."""
        for _ in range(20):
            home, _, name = dotted.rpartition(".")
            source = self.source(home)
            if source is None:
                return None
            if name in source.definitions:
                return source, source.definitions[name]
            if name in source.names and source.names[name] != dotted:
                dotted = source.names[name]
                continue
            follow = next((star for star in source.stars if f"{star}.{name}" != dotted and self._has(star, name)), None)
            if follow is None:
                return None
            dotted = f"{follow}.{name}"
        return None

    def _has(self, home: str, name: str) -> bool:
        source = self.source(home)
        return source is not None and (name in source.definitions or name in source.names)

    def _read(self) -> None:
        home = self.root / "modules"
        if not home.is_dir():
            self._problem(
                "modules",
                0,
                "There is no folder modules, so there is nothing to check.",
                "Run the command at the root.",
            )
            return
        for folder in sorted(home.iterdir()):
            if folder.is_dir() and not folder.name.startswith((".", "__")) and _has_python(folder):
                module = Slice(folder.name, list(self._sources(folder, f"modules.{folder.name}")))
                self.modules[folder.name] = module
                self._read_manifest(module)
        for source in self._sources(home, "modules", deep=False):
            if source.path != "modules/__init__.py":
                self._problem(
                    source.path, 0, "This file belongs to no module, so no rule checks it.", "Move it into a module."
                )
        self.tests = self._by_module("tests", "tests/modules")
        self.migrations = self._by_module("migrations", "migrations")
        for path in sorted(path for top in ("modules", "migrations") for path in (self.root / top).rglob("*.sql")):
            if owner := module_at(self._relative(path)):
                try:
                    self.sql.append((owner, self._relative(path), path.read_text("utf-8")))
                except (OSError, ValueError) as error:
                    self._unreadable(path, error)

    def _by_module(self, top: str, home: str) -> dict[str, list[Source]]:
        found: dict[str, list[Source]] = {}
        for source in self._sources(self.root / top, top):
            owner, _, rest = source.path.removeprefix(f"{home}/").partition("/")
            is_owned = source.path.startswith(f"{home}/") and bool(rest)
            found.setdefault(owner if is_owned else "", []).append(source)
        return found

    def _sources(self, folder: Path, dotted: str, *, deep: bool = True) -> Iterator[Source]:
        """Return the files below a folder. A file, folder or link that cannot be read is a problem."""
        if not folder.is_dir():
            return
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            self._unreadable(folder, error)
            return
        for entry in entries:
            path = Path(entry.path)
            if entry.is_dir() and deep and entry.name != "__pycache__" and not entry.name.startswith("."):
                yield from self._sources(path, f"{dotted}.{entry.name}")
            elif path.suffix == ".py" and not entry.name.startswith(
                "."
            ):  # files of an editor, which Python does not import
                try:
                    name = dotted if path.stem == "__init__" else f"{dotted}.{path.stem}"
                    yield read(self._relative(path), name, path.read_bytes())
                except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
                    self._unreadable(path, error)

    def _read_manifest(self, module: Slice) -> None:
        source = next((one for one in module.sources if one.path == module.manifest), None)
        if source is None:
            if not any(problem.path == module.manifest for problem in self.problems):
                self._problem(
                    module.path,
                    0,
                    "This module has no module.py.",
                    'Add one with `module = Module(owner="your-team")`.',
                )
            return
        calls = [
            node
            for node in source.calls
            if source.named(node.func) in {"kernel.Module", "kernel.modules.manifest.Module"}
        ]
        if len(calls) != 1:
            self._problem(
                source.path,
                0,
                f"This has Module(...) {len(calls)} times instead of once, so the manifest cannot be read.",
                'Write `module = Module(owner="your-team")` once, with literal values.',
            )
            return
        [call] = calls
        module.line = call.lineno
        module.owner = constant(argument(call, "owner"))
        if any(keyword.arg is None for keyword in call.keywords):
            self._not_literal(source, call, "**options")
        for node in self._elements(source, argument(call, "depends_on"), "depends_on"):
            name = constant(node)
            if name is None:
                self._not_literal(source, node, "depends_on")
            else:
                module.depends_on[name] = node.lineno
        provides = argument(call, "provides")
        if provides is not None and not (isinstance(provides, ast.Dict) and None not in provides.keys):
            self._not_literal(source, provides, "provides")
        helpers = argument(call, "helpers") or ast.Dict(keys=[], values=[])
        if isinstance(helpers, ast.Dict):
            module.helpers = {
                name: layer
                for key, value in zip(helpers.keys, helpers.values, strict=True)
                if (name := constant(key)) is not None and (layer := constant(value)) is not None
            }
        if not isinstance(helpers, ast.Dict) or len(module.helpers) < len(helpers.keys):
            self._not_literal(source, call, "helpers")

    def _elements(self, source: Source, node: ast.expr | None, name: str) -> list[ast.expr]:
        """Return the elements of a literal set, list or tuple, or of `frozenset(...)` with one of these."""
        if isinstance(node, ast.Call) and source.named(node.func) in {"frozenset", "set"} and not node.keywords:
            node = node.args[0] if node.args else ast.Set(elts=[])
        if node is None:
            return []
        if isinstance(node, ast.Set | ast.List | ast.Tuple):
            return node.elts
        self._not_literal(source, node, name)
        return []

    def _not_literal(self, source: Source, node: ast.expr, name: str) -> None:
        self._problem(
            source.path,
            node.lineno,
            f"{name} of the manifest is computed, but `kernel check` reads manifests without running them.",
            "Write literal values.",
        )

    def _unreadable(self, path: Path, error: Exception) -> None:
        line = error.lineno or 0 if isinstance(error, SyntaxError) else 0
        reason = error.msg if isinstance(error, SyntaxError) else error
        self._problem(
            self._relative(path), line, f"This cannot be read ({reason}), so no rule checks it.", "Correct it."
        )

    def _problem(self, path: str, line: int, why: str, instead: str) -> None:
        self.problems.append(Finding(path, line, COULD_NOT_CHECK, why, instead))

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


@cache
def _of_kernel(dotted: str) -> Source | None:
    """Return a file of the installed kernel, which is read only if a name of a module leads there."""
    first, *rest = dotted.split(".")
    place = _KERNEL.joinpath(*rest)
    file = next((one for one in (place / "__init__.py", place.with_suffix(".py")) if one.is_file()), None)
    if first != "kernel" or file is None:
        return None
    return read(file.relative_to(_KERNEL.parent).as_posix(), dotted, file.read_bytes())


def _has_python(folder: Path) -> bool:
    return not os.access(folder, os.R_OK | os.X_OK) or any(folder.rglob("*.py"))
