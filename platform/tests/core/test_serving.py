"""`kernel serve` without an extension that brings a server: plain uvicorn."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

import httpx2
import pytest

from kernel.extension import GROUP, Extension
from kernel.project import load_project
from kernel.serving import ServerRunner, runner_for, serve
from kernel.settings import Sources
from tests.core.commands import invoke
from tests.core.project import imported_alone, write_project
from tests.core.test_command import KERNEL, environment

pytestmark = pytest.mark.integration

_ROUTER = """
import os
from fastapi import APIRouter
router = APIRouter()

@router.get("")
async def pid() -> int:
    return os.getpid()
"""
_FAILS = """
from contextlib import asynccontextmanager
from kernel import Module

@asynccontextmanager
async def _fail(context):
    raise RuntimeError("the bucket is gone")
    yield

module = Module(owner="team", lifespan=_fail)
"""


def _project(folder: Path, files: dict[str, str]) -> Path:
    """Write a project that uses no extension."""
    names = ", ".join(f'"{point.name}"' for point in entry_points(group=GROUP))
    write_project(folder, files)
    (folder / "pyproject.toml").write_text(f"[tool.kernel]\nwithout-extensions = [{names}]\n")
    return folder


@contextmanager
def _served(root: Path, *arguments: str, **variables: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a server on a port that the system chooses: its address, from its output, and its process."""
    process = subprocess.Popen(
        [KERNEL, "serve", "--port", "0", *arguments],
        cwd=root,
        env=environment(root, PYTHONUNBUFFERED="1", **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().split()[-1]
        for line in process.stdout:
            if "startup complete" in line or "Cannot start" in line:
                break
        yield address, process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_an_extension_that_brings_a_server_takes_the_place_of_plain_uvicorn(tmp_path: Path) -> None:
    def of_extension(_project: object, _sock: object) -> int:
        return 0

    class Quick(Extension):
        name = "quick"

        def server(self) -> ServerRunner:
            return of_extension

    with imported_alone():
        project = load_project(Sources.read(_project(tmp_path, {"tea/router.py": _ROUTER})))
    assert runner_for(project) is serve
    assert runner_for(project._replace(extensions=(Quick,))) is of_extension


def test_without_extensions_one_process_serves_and_stops_at_a_signal(tmp_path: Path) -> None:
    with _served(_project(tmp_path, {"tea/router.py": _ROUTER}), "--no-reload") as (address, process):
        response = httpx2.get(f"{address}/tea", trust_env=False)
        assert (response.json(), "server" in response.headers) == (process.pid, False)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert '"path": "/api/v1/tea"' in output or "path=/api/v1/tea" in output


@pytest.mark.slow
def test_without_extensions_auto_reload_serves_from_a_second_process(tmp_path: Path) -> None:
    with _served(_project(tmp_path, {"tea/router.py": _ROUTER}), "--reload") as (address, process):
        assert httpx2.get(f"{address}/tea", trust_env=False).json() != process.pid
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_without_extensions_a_start_that_fails_ends_with_an_exit_code(tmp_path: Path) -> None:
    root = _project(tmp_path, {"tea/router.py": _ROUTER, "tea/module.py": _FAILS})
    with _served(root, "--no-reload") as (_, process):
        process.communicate(timeout=60)
    assert process.returncode == 3


@pytest.mark.parametrize("variable", ["SERVER_WORKERS", "SERVER_DRAIN_SECONDS", "SERVER_MAX_HEADER_BYTES"])
def test_a_setting_of_the_absent_server_names_the_extension(tmp_path: Path, variable: str) -> None:
    root = _project(tmp_path, {"tea/router.py": _ROUTER})
    done = invoke(root, "migrate", **environment(root, **{variable: "2"}))
    assert done.returncode == 1
    [fault] = [line for line in done.stderr.splitlines() if variable in line]
    assert "is a setting of the extension server, which is not in use" in fault
