"""The drill detects a core that imports an extension, and a kernel that is not the copy's."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.drill.__main__ import Result, start
from tests.drill.copies import HERE, PROJECT, Copy, extensions, used_by, with_dependents

# Modules do not import these extensions, which change how the kernel itself works.
WITHOUT_A_MODULE = {
    "api_docs",
    "autogenerate",
    "bearer_tokens",
    "boundaries",
    "compression",
    "channel",
    "cors",
    "database_urls",
    "example_secrets",
    "fast",
    "http2",
    "http_resilience",
    "inspection",
    "local_tokens",
    "openapi",
    "pool",
    "recorder",
    "remote",
    "roles",
    "server",
    "telemetry",
    "websockets",
}


def test_each_extension_that_modules_import_has_a_module_that_uses_it() -> None:
    modules = [path.parent for path in (PROJECT / "modules").glob("*/module.py")]
    used = {name for module in modules for name in used_by(module)}
    assert used | WITHOUT_A_MODULE == {*extensions()}
    assert not used & WITHOUT_A_MODULE


def test_notes_uses_no_extension() -> None:
    assert not [*used_by(PROJECT / "modules" / "notes")]


def test_an_extension_is_removed_with_those_that_require_it() -> None:
    assert with_dependents(["store"]) == {"store", "cache", "rate_limit"}


@pytest.mark.slow
def test_a_core_that_imports_a_removed_extension_fails_the_drill(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy", frozenset({"cache"}))
    copy.make()
    result = Result("cache", copy.removed)
    start(copy, result)
    assert result.starts, result.failures
    health = copy.folder / "platform" / "kernel" / "health.py"
    health.write_text(f"{health.read_text()}\nimport kernel.ext.cache\n")
    result = Result("cache", copy.removed)
    start(copy, result)
    assert not result.starts
    assert "No module named 'kernel.ext.cache'" in result.failures[0]


@pytest.mark.integration
def test_a_kernel_that_is_not_the_copys_fails_the_drill(tmp_path: Path) -> None:
    command = [sys.executable, HERE / "start.py", tmp_path, tmp_path / "data", "", "", ""]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "AssertionError: kernel was imported from " in done.stderr
