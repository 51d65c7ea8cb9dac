"""platform/importlinter.ini keeps the core apart from the extensions, and the kernel apart from the modules."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from configparser import ConfigParser
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from kernel.ext.boundaries.self_test import applied
from kernel.ext.boundaries.sources import Source, class_value
from kernel.ext.boundaries.strings import documentation
from kernel.ext.boundaries.violations import edit
from kernel.extension import GROUP

CORE = "The core never imports an extension"
ORDER = "An extension imports only extensions below it"
MODULES = "The kernel never imports a module"
DRIVERS = "The core uses drivers only where they belong"

# A contract, and a change that breaks it. An import of the core may also break the order of the extensions that use it.
VIOLATIONS = {
    "a core file imports an extension": (CORE, "kernel/health.py", "import kernel.ext.telemetry.meter"),
    "a core file imports an extension in a function": (
        CORE,
        "kernel/auth/policy.py",
        "def f():\n    import kernel.ext\n",
    ),
    "a core file imports an extension for its types": (
        CORE,
        "kernel/logging.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from kernel.ext.store import store\n",
    ),
    "a core file that no layer names": (CORE, "kernel/more.py", '"""More."""'),
    "an extension imports one above it": (ORDER, "kernel/ext/store/store.py", "import kernel.ext.cache.cache"),
    "an extension imports one beside it": (
        ORDER,
        "kernel/ext/cache/cache.py",
        "import kernel.ext.rate_limit.limited",
    ),
    "an extension that no layer names": (ORDER, "kernel/ext/more/__init__.py", '"""More."""'),
    "the core imports a module": (MODULES, "kernel/modules/discovery.py", "def f():\n    import modules\n"),
    "an extension imports a module": (MODULES, "kernel/ext/cache/cache.py", "import modules.events.contract"),
    "a driver outside the database package": (DRIVERS, "kernel/health.py", "import asyncpg"),
}


@pytest.fixture
def root() -> Path:
    """Return the folder `platform`, which the platform's importlinter.ini judges."""
    return Path(__file__).parents[2]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the kernel and its importlinter.ini."""
    platform, folder = Path(__file__).parents[2], tmp_path_factory.mktemp("platform")
    shutil.copytree(platform / "kernel", folder / "kernel", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(platform / "importlinter.ini", folder)
    return folder


def run(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command that imports the kernel from the folder, although another kernel is installed."""
    environment = os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.integration
@pytest.mark.parametrize("case", VIOLATIONS)
def test_the_violation_is_found(copy: Path, case: str) -> None:
    contract, path, code = VIOLATIONS[case]
    with applied(copy, edit(case, path, code)):
        lint = Path(sys.executable).parent / "lint-imports"
        done = run(copy, lint, "--config", "importlinter.ini", "--no-cache")
    broken = set(re.findall(r"^(.+) BROKEN\b", done.stdout, re.MULTILINE))
    assert contract in broken, done.stdout + done.stderr
    assert broken <= {contract, ORDER}


def test_every_contract_has_a_violation(root: Path) -> None:
    configuration = ConfigParser()
    configuration.read(root / "importlinter.ini")
    names = {part["name"] for name, part in configuration.items() if name.startswith("importlinter:contract:")}
    assert names == {contract for contract, _, _ in VIOLATIONS.values()}


# `kernel check` uses these if they are installed: remote compares contracts, and messaging declares messages.
OPTIONAL = {("boundaries", "remote"), ("boundaries", "messaging")}


def test_an_extension_requires_the_extensions_that_it_imports(root: Path) -> None:
    requires = {point.name: set(point.load().requires) for point in entry_points(group=GROUP)}
    imported = {
        (parts[2], name.split(".")[2])
        for source in sources(root)
        for name in (found.name for found in source.imports)
        if (parts := source.dotted.split("."))[:2] == ["kernel", "ext"] and name.startswith("kernel.ext.")
    }
    undeclared = {(one, other) for one, other in imported if one != other and other not in requires.get(one, ())}
    assert undeclared == OPTIONAL


def sources(folder: Path) -> Iterator[Source]:
    for file in sorted((folder / "kernel").rglob("*.py")):
        path = file.relative_to(folder)
        yield Source(path.as_posix(), ".".join(path.with_suffix("").parts).removesuffix(".__init__"), file.read_bytes())


@pytest.mark.integration
def test_import_linter_sees_every_file(root: Path) -> None:
    """It skips a folder without an __init__.py without a message."""
    code = "import grimp, json; print(json.dumps(list(grimp.build_graph('kernel', cache_dir=None).modules)))"
    seen = set(json.loads(run(root, sys.executable, "-c", code).stdout))
    assert seen == {source.dotted for source in sources(root)}


# A text in the core that names an extension, or a text anywhere in the kernel that names a module of a product.
NAMES = {"core": re.compile(r"kernel\.ext\.\w+"), "kernel": re.compile(r"modules\.(?!\*)\w+\.\w+")}


def named_in_texts(source: Source) -> list[str]:
    """Return what an import by name would need: texts of a file that name an extension or a module."""
    is_core = not source.dotted.startswith("kernel.ext.")
    prose = documentation(source)
    texts = [
        node.value
        for node in source.nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    ]
    patterns = [NAMES["core"]] if is_core else []
    return [text for text in texts for pattern in [*patterns, NAMES["kernel"]] if pattern.match(text)]


@pytest.mark.parametrize(
    ("dotted", "code", "is_found"),
    [
        ("kernel.health", 'X = import_module("kernel.ext.cache.cache")', True),
        ("kernel.health", 'def f():\n    return load(f"kernel.ext.cache.{name}")', True),
        ("kernel.health", 'X = "modules.events.models"', True),
        ("kernel.ext.cache.cache", 'X = "modules.events.models"', True),
        ("kernel.ext.cache.cache", 'X = "kernel.ext.store.store"', False),
        ("kernel.health", '"""See kernel.ext.cache.cache."""', False),
        ("kernel.health", 'X = f"modules.{name}.models"', False),
    ],
)
def test_an_import_by_name_is_found(dotted: str, code: str, is_found: bool) -> None:
    assert bool(named_in_texts(Source(f"{dotted}.py", dotted, code))) == is_found


def test_the_core_names_no_extension_and_the_kernel_no_module_in_a_text(root: Path) -> None:
    found = {(source.dotted, text) for source in sources(root) for text in named_in_texts(source)}
    assert found == set()


def test_the_kernel_has_no_table_of_its_own(root: Path) -> None:
    """No migration would create it, and no role would have rights on it."""
    tables = [
        f"{source.dotted}.{node.name}"
        for source in sources(root)
        for node in source.classes
        if class_value(node, "__tablename__") is not None
    ]
    assert tables == []


@pytest.mark.integration
def test_platform_is_a_source_root_and_never_a_package(root: Path) -> None:
    assert not (root / "__init__.py").exists()
    code = "import sys; assert sys.path[0] == ''; import platform; print(platform.__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=root.parent, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == Path(sysconfig.get_path("stdlib"), "platform.py")
