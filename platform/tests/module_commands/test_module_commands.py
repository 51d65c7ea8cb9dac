"""Commands of modules: found by their files, loaded when one is run, and given what their module has."""

import subprocess
from pathlib import Path

import pytest

from tests.core.commands import invoke
from tests.core.project import write_project
from tests.core.test_command import environment, run

pytestmark = pytest.mark.integration

_COMMANDS = """
import typer
from kernel.ext.module_commands import in_module

app = typer.Typer(help="Commands for things.")

@app.command()
def tell(loudly: bool = False) -> None:
    async def work(context):
        return context.state + "!" * loudly
    typer.echo(in_module("things", work))
"""
_MODULE = """
from contextlib import asynccontextmanager
from kernel import Module

@asynccontextmanager
async def _open(context):
    yield f"state of {context.name}"

module = Module(owner="team", lifespan=_open)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_project(tmp_path / "project", {"things/commands.py": _COMMANDS, "things/module.py": _MODULE})


def kernel(root: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return invoke(root, *words, **environment(root.parent, LOG_LEVEL="ERROR", **variables))


def test_a_command_gets_its_modules_state(root: Path) -> None:
    done = run(root, root.parent, "things", "tell", "--loudly", LOG_LEVEL="ERROR")
    assert (done.returncode, done.stdout) == (0, "state of things!\n"), done.stderr


def test_help_lists_the_modules_without_loading_them(root: Path) -> None:
    (root / "modules" / "things" / "commands.py").write_text("raise RuntimeError('loaded')")
    done = kernel(root, "--help")
    assert done.returncode == 0
    assert "Commands of the module things." in done.stdout


def test_the_help_of_a_module_is_its_own(root: Path) -> None:
    assert "Commands for things." in kernel(root, "things", "--help").stdout


def test_a_module_cannot_take_a_command_of_the_kernel(root: Path) -> None:
    (root / "modules" / "things").rename(root / "modules" / "serve")
    done = kernel(root, "serve")
    assert done.returncode == 1
    assert "modules/serve/commands.py: the kernel has a command serve, too" in done.stderr.replace("\n", "")


def test_a_file_without_commands_is_named(root: Path) -> None:
    (root / "modules" / "things" / "commands.py").write_text("")
    done = kernel(root, "things", "tell")
    assert done.returncode == 1
    assert "modules/things/commands.py has no app" in done.stderr


def test_a_module_that_does_not_run_here_has_no_commands(root: Path) -> None:
    done = kernel(root, "things", "tell", ENABLED_MODULES="[]")
    assert done.returncode == 1
    assert "things does not run in this process" in done.stderr
