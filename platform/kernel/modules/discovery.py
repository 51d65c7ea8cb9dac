"""Discover the modules. Every problem is reported with the file, the reason and the remedy."""

import difflib
import importlib
import pkgutil
import re
import sys
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType
from typing import Any

from fastapi import APIRouter
from sqlalchemy import MetaData, Table
from sqlalchemy.orm import DeclarativeBase

from kernel.errors import ProjectError
from kernel.extension import Extension, load_extensions
from kernel.modules.contracts import Contract
from kernel.modules.manifest import Module
from kernel.settings import ModuleSettings, is_reserved

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_IMPORTS_EXTENSION = re.compile(r"^\s*(?:from|import) kernel\.ext\.(\w+)", re.MULTILINE)
_ROUTER_CONFIG_KEYS = frozenset({"prefix", "tags"})
# The object that a file of a module defines under the name of the file: its type, and an example for messages.
_OBJECTS = {"module": (Module, 'Module(owner="your-team")'), "router": (APIRouter, "APIRouter()")}


class DiscoveryError(ProjectError):
    """All problems that prevent the modules from starting, in one message."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"The modules have {len(self.problems)} problem(s):\n{lines}")


@dataclass(frozen=True)
class DiscoveredModule:
    """A module: its manifest, and what the kernel needs from its files."""

    name: str
    folder: Path
    manifest: Module
    router: APIRouter | None
    prefix: str
    tags: tuple[str, ...]
    settings_type: type[ModuleSettings]
    # The module's tables; None if it has none.
    metadata: MetaData | None
    migrations: Path
    files: "ModuleFiles"


@dataclass(frozen=True)
class ModuleFiles:
    """The imported files of a module, by name without `.py`: those that the kernel and the extensions read."""

    name: str
    root: Path
    files: Mapping[str, ModuleType]

    def get(self, name: str) -> ModuleType | None:
        """Return the file of this name, or None if the module has none."""
        return self.files.get(name)

    def table(self, kind: type) -> Table | None:
        """Return the table of the class in models.py that derives from this mixin, or None."""
        for value in vars(self.files["models"]).values() if "models" in self.files else ():
            if isinstance(value, type) and issubclass(value, kind) and hasattr(value, "__table__"):
                table: Table = value.__table__
                return table
        return None


def discover(
    root: Path,
    enabled: Collection[str] | None = None,
    elsewhere: Collection[str] = (),
    extensions: Sequence[type[Extension]] | None = None,
) -> tuple[DiscoveredModule, ...]:
    """Return the enabled modules below `root/modules` (by default all), each after the modules it depends on.

    The modules `elsewhere` run in other processes. They are not imported, but other modules may depend on them.
    `extensions` are by default those of the project. Raises DiscoveryError and ExtensionError.
    """
    extensions = load_extensions(root) if extensions is None else extensions
    problems: list[str] = []
    names = list(_folders(root / "modules", elsewhere, problems))
    for name in enabled or ():
        if name not in names and name not in elsewhere:
            known = sorted({*names, *elsewhere})
            meant = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {meant[0]}?" if meant else f"The modules are: {', '.join(known) or 'none'}."
            problems.append(f"ENABLED_MODULES names {name}, but there is no modules/{name}. {hint}")
    selected = [name for name in names if enabled is None or name in enabled]
    found = [module for name in selected if (module := _load(root, name, extensions, problems)) is not None]
    problems += _wrong_together(found, {*selected, *elsewhere}, names)
    by_name = {module.name: module for module in found}
    graph = {module.name: sorted(module.manifest.depends_on & by_name.keys()) for module in found}
    order: list[str] = []
    try:
        order += TopologicalSorter(graph).static_order()
    except CycleError as error:
        problems.append(
            f"depends_on has a cycle: {' -> '.join(reversed(error.args[1]))}. "
            "Replace one of these dependencies by a message, or move the shared part into a third module."
        )
    if problems:
        raise DiscoveryError(dict.fromkeys(problems))
    return tuple(by_name[name] for name in order)


def contracts_of(root: Path, name: str) -> tuple[type[Contract], ...]:
    """Return the contracts that a module declares, without loading its other files. Raises DiscoveryError."""
    return tuple(value for value in declared(root, name) if Contract in value.__bases__)


def declared(root: Path, name: str) -> list[type]:
    """Return the classes that a module's contract (a file or a package) defines. Raises DiscoveryError."""
    problems: list[str] = []
    contract = _import(root, name, "contract", problems)
    if problems:
        raise DiscoveryError(problems)
    if contract is None:
        return []
    parts = [part.name for part in pkgutil.iter_modules(getattr(contract, "__path__", ()), f"{contract.__name__}.")]
    return [one for file in (contract, *map(importlib.import_module, parts)) for one in _classes(file)]


def _folders(modules: Path, elsewhere: Collection[str], problems: list[str]) -> Iterator[str]:
    if not modules.is_dir():
        problems.append(f"{modules}, the folder of the feature modules, is missing. Create it.")
        return
    for folder in sorted(modules.iterdir()):
        if not folder.is_dir() or folder.name.startswith((".", "__")) or folder.name in elsewhere:
            continue
        where = f"modules/{folder.name}"
        if not _NAME.fullmatch(folder.name):
            problems.append(
                f"{where} is not a valid module name: use lower case letters, digits and _, e.g. {_tidy(folder.name)}."
            )
        elif is_reserved(folder.name):
            problems.append(f"{where}: the kernel's settings use the name {folder.name}. Choose another name.")
        elif not (folder / "module.py").is_file():
            problems.append(
                f"{where} has no module.py. Add a manifest, "
                f'`module = Module(owner="your-team")` (see modules/events/module.py), or remove the folder.'
            )
        elif not (folder / "__init__.py").is_file():
            problems.append(
                f"{where} has no __init__.py, so the boundary checks do not see it. Add one with a docstring."
            )
        else:
            yield folder.name


def _tidy(name: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_0123456789") or "orders"


def _load(root: Path, name: str, extensions: Sequence[type[Extension]], problems: list[str]) -> DiscoveredModule | None:
    """Import a module's files and read what they define; return None if that is impossible."""
    read = dict.fromkeys(
        ("module", "models", "settings", "router", *(part for one in extensions for part in one.module_files))
    )
    files = {part: _import(root, name, part, problems) for part in read}
    before = len(problems)
    problems += _of_absent_extensions(root / "modules" / name, extensions)
    manifest, router = (_object(name, part, files[part], problems) for part in _OBJECTS)
    bases = [one for one in _classes(files["models"]) if DeclarativeBase in one.__bases__]
    if files["models"] is not None and len(bases) != 1:
        problems.append(
            f"modules/{name}/models.py must define one declarative base of its own; it defines {len(bases)}. "
            "Add `class Base(DeclarativeBase): metadata = new_metadata()`."
        )
    types = [one for one in _classes(files["settings"]) if issubclass(one, ModuleSettings)]
    if files["settings"] is not None and len(types) != 1:
        problems.append(
            f"modules/{name}/settings.py must define one class derived from ModuleSettings; it has {len(types)}."
        )
    prefix, tags = _routing(name, files["router"], router, problems)
    known = ModuleFiles(name, root, {part: file for part, file in files.items() if file is not None})
    for extension in extensions:
        problems += extension().check_module(known)
    if not isinstance(manifest, Module) or len(problems) > before:
        return None
    return DiscoveredModule(
        name=name,
        folder=root / "modules" / name,
        manifest=manifest,
        router=router,
        prefix=prefix,
        tags=tags,
        settings_type=types[0] if types else ModuleSettings,
        metadata=bases[0].metadata if bases else None,  # type: ignore[attr-defined]  # a DeclarativeBase
        migrations=root / "migrations" / name,
        files=known,
    )


def _of_absent_extensions(folder: Path, extensions: Sequence[type[Extension]]) -> Iterator[str]:
    """Yield the files that import an extension that is not in use: their declarations would have no effect."""
    known = {extension.name for extension in extensions}
    for path in sorted(folder.rglob("*.py")):
        for name in dict.fromkeys(_IMPORTS_EXTENSION.findall(path.read_text(encoding="utf-8", errors="replace"))):
            if name not in known:
                place = path.relative_to(folder.parents[1])
                yield (
                    f"{place} imports kernel.ext.{name}, but the extension {name} is not in use. Install "
                    f"platform-kernel[{name}], or remove it from without-extensions in pyproject.toml."
                )


def _import(root: Path, name: str, part: str, problems: list[str]) -> ModuleType | None:
    place = root / "modules" / name / part
    path = next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)
    if path is None:
        return None
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        module = importlib.import_module(f"modules.{name}.{part}")
    except Exception as error:  # noqa: BLE001  # importing a module may raise anything
        problems.append(f"modules/{name}/{part}.py cannot be imported: {type(error).__name__}: {error}{_origin(error)}")
        return None
    if Path(module.__file__ or "").resolve() != path.resolve():
        problems.append(
            f"modules/{name}/{part}.py was not imported, because {module.__file__} has the same name. Rename one."
        )
    return module


def _origin(error: BaseException) -> str:
    """Return the last place in the traceback that is in a file of a module."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if "/modules/" in one.filename]
    return f" (at {frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _routing(
    name: str, file: ModuleType | None, router: APIRouter | None, problems: list[str]
) -> tuple[str, tuple[str, ...]]:
    """Return prefix and tags: those of the router, else of ROUTER_CONFIG, else the defaults for the name."""
    config: Any = getattr(file, "ROUTER_CONFIG", {})
    if not isinstance(config, dict) or not config.keys() <= _ROUTER_CONFIG_KEYS:
        problems.append(f"modules/{name}/router.py: ROUTER_CONFIG must be a dict with no keys but prefix and tags.")
        config = {}
    prefix = (router.prefix if router else "") or config.get("prefix") or f"/api/v1/{name}"
    tags = (router.tags if router else []) or config.get("tags") or [name]
    if not isinstance(prefix, str) or not prefix.startswith("/") or prefix.endswith("/"):
        problems.append(f'modules/{name}/router.py: the prefix {prefix!r} must begin with "/" and not end with it.')
    return prefix, tuple(str(tag) for tag in tags)


def _object(name: str, part: str, file: ModuleType | None, problems: list[str]) -> Any:
    kind, example = _OBJECTS[part]
    value = getattr(file, part, None)
    if file is None or isinstance(value, kind):
        return value
    what = "missing" if value is None else f"of type {type(value).__name__}"
    problems.append(f"modules/{name}/{part}.py must define `{part} = {example}`; its `{part}` is {what}.")
    return None


def _classes(file: ModuleType | None) -> list[type]:
    """Return the classes that a file defines, each once, and not those that it imports."""
    if file is None:
        return []
    found = dict.fromkeys(value for value in vars(file).values() if isinstance(value, type))
    return [one for one in found if one.__module__ == file.__name__]


def _wrong_together(found: list[DiscoveredModule], provided: set[str], names: list[str]) -> Iterator[str]:
    """Yield the problems of the modules as a set."""
    owners: dict[str, str] = {}
    for module in found:
        if module.router is not None:
            if module.prefix in owners:
                yield (
                    f"modules/{owners[module.prefix]} and modules/{module.name} have the same prefix, {module.prefix}. "
                    "Change one of them in its router or ROUTER_CONFIG."
                )
            owners[module.prefix] = module.name
        for other in sorted(module.manifest.depends_on - provided):
            where = f"which is not in ENABLED_MODULES: add it, or set its address ({other.upper()}_URL=http://...)"
            what = where if other in names else "but there is no such module"
            yield f"modules/{module.name}/module.py depends on {other}, {what}."
