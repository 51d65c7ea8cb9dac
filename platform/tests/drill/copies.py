"""Copies of the platform that lack extensions, each installed in a virtual environment of its own."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

from uv import find_uv_bin

HERE = Path(__file__).parent
PROJECT = HERE / "project"
PLATFORM = HERE.parents[1]
ROOT = PLATFORM.parent
EXTENSIONS = PLATFORM / "kernel" / "ext"

# The files of the repository that the core's tests need. The module health goes with the extensions that it uses.
_COPIED = (
    "pyproject.toml",
    "conftest.py",
    "importlinter.ini",
    "env_files",
    "docs",
    "modules/health",
    "migrations/health",
)
_TEST_HELPERS = (
    "tests/alone.py",
    "tests/tiers.py",
    "tests/conftest.py",
    "tests/faults/proxy.py",
    "platform/tests/brokers/servers.py",
)
_IMPORT = re.compile(r"^\s*(?:from|import) kernel\.ext\.(\w+)", re.MULTILINE)
_KEPT_VARIABLES = {"PATH", "HOME", "LANG", "TMPDIR", "CI"}


def extensions() -> list[str]:
    """Return the names of all extensions, each a folder below kernel/ext."""
    return sorted(path.parent.name for path in EXTENSIONS.glob("*/__init__.py"))


def entry_points() -> dict[str, EntryPoint]:
    """Return the entry points of the extensions that have registered themselves, by extension."""
    points = _distribution()["kernel.extensions"]
    return {name: EntryPoint(name, value, "kernel.extensions") for name, value in points.items()}


def with_dependents(removed: Collection[str]) -> set[str]:
    """Return these extensions and all that require one of them, directly or not."""
    requires = {name: set(point.load().requires) for name, point in entry_points().items()}
    found = set(removed)
    while more := {name for name, needed in requires.items() if needed & found} - found:
        found |= more
    return found


@dataclass(frozen=True)
class Copy:
    """A copy of the platform and of the drill's project below `folder`, without the extensions `removed`."""

    folder: Path
    removed: frozenset[str]

    @property
    def present(self) -> set[str]:
        """Return the remaining extensions."""
        return {*extensions()} - self.removed

    @property
    def registered(self) -> set[str]:
        """Return the remaining extensions with an entry point."""
        return self.present & entry_points().keys()

    @property
    def python(self) -> Path:
        """Return the interpreter of the copy's virtual environment."""
        return self.folder / ".venv" / "bin" / "python"

    def make(self) -> None:
        """Write the copy and install it."""
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "data")
        for name in _COPIED:
            source, target = ROOT / name, self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=ignored)
            elif source.exists():
                shutil.copy(source, target)
        shutil.copytree(PLATFORM, self.folder / "platform", ignore=shutil.ignore_patterns("tests", "__pycache__"))
        for name in ("core", "drill"):
            shutil.copytree(PLATFORM / "tests" / name, self.folder / "platform" / "tests" / name, ignore=ignored)
        for name in _TEST_HELPERS:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.folder / name)
        for name in ("modules", "migrations"):
            shutil.copytree(PROJECT / name, self.folder / name, ignore=ignored, dirs_exist_ok=True)
        shutil.copytree(PROJECT / "tests", self.folder / "tests" / "notes")
        self._remove()
        self._install()

    def _remove(self) -> None:
        kernel = self.folder / "platform" / "kernel"
        for name in self.removed:
            shutil.rmtree(kernel / "ext" / name)
        for module in sorted((self.folder / "modules").glob("*/module.py")):
            if {*used_by(module.parent)} & self.removed:
                shutil.rmtree(module.parent)
                shutil.rmtree(self.folder / "migrations" / module.parent.name, ignore_errors=True)
        product = self.folder / "pyproject.toml"  # The list of the extensions that this repository needs.
        product.write_text(
            re.sub(r"^\[tool\.kernel\]\n[^\[]*\[[^\]]*\]\n", "", product.read_text(), flags=re.MULTILINE)
        )
        file = self.folder / "platform" / "pyproject.toml"
        gone = "|".join(self.removed)
        file.write_text(re.sub(rf'^\w+ = "kernel\.ext\.(?:{gone})\..*"\n', "", file.read_text(), flags=re.MULTILINE))

    def _install(self) -> None:
        """Install the copy with the dependencies of this environment, but without this environment's kernel."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.folder / ".venv"], check=True)
        [packages] = self.folder.glob(".venv/lib/*/site-packages")
        # A plain path: Python does not read the .pth files of that folder, so its editable kernel is not on the path.
        (packages / "dependencies.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
        self.run(
            find_uv_bin(),
            *("pip", "install", "--quiet", "--offline", "--no-deps", "--python", self.python),
            *("--editable", self.folder / "platform"),
        ).check_returncode()

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command in the copy, without settings from this process's environment."""
        environment = {name: value for name, value in os.environ.items() if name in _KEPT_VARIABLES}
        environment["PATH"] = f"{self.python.parent}{os.pathsep}{environment['PATH']}"
        return subprocess.run(
            command,
            cwd=self.folder,
            env=environment | {"UV_NO_CONFIG": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


def used_by(module: Path) -> Iterator[str]:
    """Yield the extensions that the files of a module import."""
    for path in module.rglob("*.py"):
        yield from _IMPORT.findall(path.read_text(encoding="utf-8"))


def _distribution() -> dict[str, dict[str, str]]:
    table: dict[str, dict[str, str]] = tomllib.loads((PLATFORM / "pyproject.toml").read_text())["project"][
        "entry-points"
    ]
    return table
