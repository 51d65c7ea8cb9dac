"""Finds the modules, once, and fails loudly: each fault with the file, the reason and what to do."""

import difflib
import importlib
import pkgutil
import re
import sys
from collections import Counter
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
from kernel.modules.contracts import Contract, methods_of
from kernel.modules.manifest import Module
from kernel.settings import RESERVED_NAMES, ModuleSettings, Sources

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_IMPORTS_EXTENSION = re.compile(r"^\s*(?:from|import) kernel\.ext\.(\w+)", re.MULTILINE)
_ROUTER_CONFIG_KEYS = frozenset({"prefix", "tags"})


class DiscoveryError(ProjectError):
    """Everything that keeps the modules from being started, in one message."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"The modules have {len(self.problems)} fault(s):\n{lines}")


@dataclass(frozen=True)
class DiscoveredModule:
    """One module as it was found: its manifest, and what the kernel needs of its files."""

    name: str
    folder: Path
    manifest: Module
    router: APIRouter | None
    prefix: str
    tags: tuple[str, ...]
    settings_type: type[ModuleSettings]
    # Its tables; None for a module without any.
    metadata: MetaData | None
    migrations: Path
    files: "ModuleFiles"


@dataclass(frozen=True)
class ModuleFiles:
    """The files of a module that were imported, by name without `.py`: the kernel's, and those that extensions read."""

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
    """Return the modules below `root/modules`, or those `enabled` of them, each after the modules it depends on.

    Nothing is imported of the modules `elsewhere`; others may depend on them, as another process implements their
    contracts. `extensions` are by default those of the project. Raises DiscoveryError and ExtensionError.
    """
    extensions = load_extensions(root) if extensions is None else extensions
    problems: list[str] = []
    names = list(_folders(root / "modules", elsewhere, problems))
    for name in enabled or ():
        if name not in names and name not in elsewhere:
            known = sorted({*names, *elsewhere})
            meant = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {meant[0]}?" if meant else f"There are: {', '.join(known) or 'none'}."
            problems.append(f"ENABLED_MODULES names {name}, but there is no modules/{name}. {hint}")
    selected = [name for name in names if enabled is None or name in enabled]
    found = [module for name in selected if (module := _load(root, name, extensions, problems)) is not None]
    problems += _wrong_together(found, {*selected, *elsewhere}, names)
    if problems:
        raise DiscoveryError(dict.fromkeys(problems))
    by_name = {module.name: module for module in found}
    graph = {module.name: sorted(module.manifest.depends_on & by_name.keys()) for module in found}
    return tuple(by_name[name] for name in TopologicalSorter(graph).static_order())


def with_address(sources: Sources, enabled: Collection[str] | None) -> set[str]:
    """Return the modules of the project whose address is set (`IMAGES_URL`) and that ENABLED_MODULES does not name."""
    names = {folder.name for folder in (sources.root / "modules").glob("*")}
    return {name for name in names if sources.origin(f"{name.upper()}_URL") and name not in (enabled or ())}


def contracts_of(root: Path, name: str) -> tuple[type[Contract], ...]:
    """The contracts that a module declares, of which nothing else is loaded. Raises DiscoveryError."""
    return tuple(value for value in declared(root, name) if Contract in value.__bases__)


def declared(root: Path, name: str) -> list[type]:
    """Return the classes that a module's contract defines, be it a file or a package. Raises DiscoveryError."""
    problems: list[str] = []
    contract = _import(root, name, "contract", problems)
    if problems:
        raise DiscoveryError(problems)
    if contract is None:
        return []
    parts = [part.name for part in pkgutil.iter_modules(getattr(contract, "__path__", ()), f"{contract.__name__}.")]
    values = [value for file in (contract, *map(importlib.import_module, parts)) for value in vars(file).values()]
    own = [value for value in values if isinstance(value, type) and value.__module__ in {contract.__name__, *parts}]
    return list(dict.fromkeys(own))


def _folders(modules: Path, elsewhere: Collection[str], problems: list[str]) -> Iterator[str]:
    if not modules.is_dir():
        problems.append(f"{modules} is missing: the folder of the feature modules.")
        return
    for folder in sorted(modules.iterdir()):
        if not folder.is_dir() or folder.name.startswith((".", "__")) or folder.name in elsewhere:
            continue
        where = f"modules/{folder.name}"
        if not _NAME.fullmatch(folder.name):
            problems.append(
                f"{where} is no module name: use lower case letters, digits and _, e.g. {_tidy(folder.name)}."
            )
        elif folder.name in RESERVED_NAMES:
            problems.append(f"{where}: {folder.name} is taken by the kernel's own settings. Choose another name.")
        elif not (folder / "module.py").is_file():
            problems.append(
                f"{where} has no module.py. A module needs a manifest: add one with "
                f'`module = Module(owner="your-team")` (see modules/events/module.py), or remove the folder.'
            )
        elif not (folder / "__init__.py").is_file():
            problems.append(
                f"{where} has no __init__.py, which hides it from the boundary checks. Add one with a docstring."
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
    manifest = getattr(files["module"], "module", None)
    if files["module"] is not None and not isinstance(manifest, Module):
        problems.append(f'modules/{name}/module.py must define `module = Module(owner="your-team")`.')
    router = getattr(files["router"], "router", None)
    if files["router"] is not None and not isinstance(router, APIRouter):
        problems.append(
            f"modules/{name}/router.py must define `router = APIRouter()`; its `router` is {_kind(router)}."
        )
        router = None
    prefix, tags = _routing(name, files["router"], router, problems)
    metadata = _metadata(name, files["models"], problems)
    settings_type = _settings_type(name, files["settings"], problems)
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
        settings_type=settings_type,
        metadata=metadata,
        migrations=root / "migrations" / name,
        files=known,
    )


def _of_absent_extensions(folder: Path, extensions: Sequence[type[Extension]]) -> Iterator[str]:
    """Say which files import an extension that is not in use: what they declare for it would have no effect."""
    known = {extension.name for extension in extensions}
    for path in sorted(folder.rglob("*.py")):
        for name in dict.fromkeys(_IMPORTS_EXTENSION.findall(path.read_text(encoding="utf-8", errors="replace"))):
            if name not in known:
                place = path.relative_to(folder.parents[1])
                yield (
                    f"{place} imports kernel.ext.{name}, and the extension {name} is not in use: install "
                    f"platform-kernel[{name}], or take it out of without-extensions in pyproject.toml."
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
    except Exception as error:  # noqa: BLE001  # a module may fail in any way; all ways stop the start with a word
        problems.append(f"modules/{name}/{part}.py cannot be imported: {type(error).__name__}: {error}{_origin(error)}")
        return None
    if Path(module.__file__ or "").resolve() != path.resolve():
        problems.append(f"modules/{name}/{part}.py is hidden by {module.__file__}, which was imported under its name.")
    return module


def _origin(error: BaseException) -> str:
    """The last place in the traceback that is in the modules' own files."""
    place, trace = "", error.__traceback__
    while trace is not None:
        if "/modules/" in trace.tb_frame.f_code.co_filename:
            place = f" (at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"
        trace = trace.tb_next
    return place


def _kind(value: object) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"


def _routing(
    name: str, file: ModuleType | None, router: APIRouter | None, problems: list[str]
) -> tuple[str, tuple[str, ...]]:
    """Prefix and tags: the router's own, else ROUTER_CONFIG's, else made from the name."""
    config: Any = getattr(file, "ROUTER_CONFIG", {})
    if not isinstance(config, dict) or not config.keys() <= _ROUTER_CONFIG_KEYS:
        problems.append(f"modules/{name}/router.py: ROUTER_CONFIG must be a dict with the keys prefix and tags only.")
        config = {}
    prefix = (router.prefix if router else "") or config.get("prefix") or f"/api/v1/{name}"
    tags = (router.tags if router else []) or config.get("tags") or [name]
    if not isinstance(prefix, str) or not prefix.startswith("/") or prefix.endswith("/"):
        problems.append(f'modules/{name}/router.py: the prefix {prefix!r} must begin with "/" and not end with it.')
    return prefix, tuple(str(tag) for tag in tags)


def _metadata(name: str, file: ModuleType | None, problems: list[str]) -> MetaData | None:
    if file is None:
        return None
    bases = [
        value
        for value in vars(file).values()
        if isinstance(value, type) and DeclarativeBase in value.__bases__ and value.__module__ == file.__name__
    ]
    if len(bases) != 1:
        problems.append(
            f"modules/{name}/models.py must define one declarative base of its own; it defines {len(bases)}. "
            "Add `class Base(DeclarativeBase): metadata = new_metadata()`."
        )
        return None
    base: type[DeclarativeBase] = bases[0]
    return base.metadata


def _settings_type(name: str, file: ModuleType | None, problems: list[str]) -> type[ModuleSettings]:
    if file is None:
        return ModuleSettings
    own = [
        value
        for value in vars(file).values()
        if isinstance(value, type) and issubclass(value, ModuleSettings) and value.__module__ == file.__name__
    ]
    if len(own) == 1:
        return own[0]
    problems.append(f"modules/{name}/settings.py must define one class derived from ModuleSettings; it has {len(own)}.")
    return ModuleSettings


def _wrong_together(found: list[DiscoveredModule], provided: set[str], names: list[str]) -> Iterator[str]:
    """What is wrong with the modules as a set."""
    owners: dict[str, str] = {}
    for module in found:
        if module.router is not None:
            if module.prefix in owners:
                yield (
                    f"modules/{owners[module.prefix]} and modules/{module.name} have one prefix, {module.prefix}. "
                    "Give one of them another in its router or ROUTER_CONFIG."
                )
            owners[module.prefix] = module.name
            if f"{module.prefix}/".startswith("/internal/"):
                yield f"modules/{module.name} has the prefix {module.prefix}: below /internal processes ask each other."
        asked = Counter(name for contract in module.manifest.provides for name in methods_of(contract))
        for name in [name for name, times in asked.items() if times > 1]:
            address = f"/internal/contracts/{module.name}/{name}"
            yield f"modules/{module.name} provides {name} in two contracts, with one address, {address}. Rename one."
        for other in sorted(module.manifest.depends_on - provided):
            where = f"which is not in ENABLED_MODULES: add it, or say where it runs ({other.upper()}_URL=http://...)"
            what = where if other in names else "but there is no such module"
            yield f"modules/{module.name}/module.py depends on {other}, {what}."
    known = {module.name for module in found}
    try:
        TopologicalSorter({module.name: module.manifest.depends_on & known for module in found}).prepare()
    except CycleError as error:
        yield (
            f"depends_on goes in a circle: {' -> '.join(reversed(error.args[1]))}. "
            "Turn one of these dependencies around, with a message, or move what both need into a third module."
        )
