"""Tokens for development: one command creates them, and only LOCAL accepts them."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.application import create_app
from kernel.project import load_project
from kernel.settings.sources import Layer, Sources
from kernel.testing.booting import talking_to
from tests.core.commands import invoke
from tests.core.project import MANIFEST, imported_alone, write_project

ROUTER = """
from typing import Annotated
from fastapi import APIRouter
from kernel import Principal, requires

router = APIRouter()

@router.get("")
async def who(caller: Annotated[Principal, requires("shop:read")]) -> str:
    return caller.key
"""
KERNEL = Path(sys.executable).parent / "kernel"
ROLES = {"AUTH_ROLES": '{"keeper": ["shop:*"]}'}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    with imported_alone():
        yield write_project(tmp_path, {"shop/router.py": ROUTER, "shop/module.py": MANIFEST})


def token(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME"}} | variables
    command = [KERNEL, "token", *options]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=60)


async def answer(folder: Path, sent: str, **variables: str) -> tuple[int, object]:
    known = {"ENVIRONMENT": "local", "AUTH_ENABLED": "true", "DATABASE_URL": f"sqlite:///{folder / 'data'}"} | ROLES
    known |= variables
    app = create_app(*load_project(Sources(folder, known["ENVIRONMENT"], (Layer("test", known),))))
    async with app.router.lifespan_context(app), talking_to(app) as client:
        got = await client.get("/api/v1/shop", headers={"Authorization": f"Bearer {sent.strip()}"})
        return got.status_code, got.json()


@pytest.mark.slow
async def test_a_token_of_the_command_is_valid_in_local(project: Path) -> None:
    by_scope = token(project, "--subject", "alice", "--scope", "shop:read").stdout
    assert await answer(project, by_scope) == (200, "local|alice")
    key = project / "data" / "local-key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    made = token(project, "--subject", "bob", "--role", "keeper", **ROLES)
    assert made.stderr == ""
    assert await answer(project, made.stdout) == (200, "local|bob"), "with the key that the first command has created"
    assert "AUTH_ROLES has no role editor" in token(project, "--role", "editor", **ROLES).stderr
    assert (await answer(project, token(project, "--scope", "else:read").stdout))[0] == 403


@pytest.mark.slow
async def test_a_token_of_another_project_is_refused(project: Path, tmp_path: Path) -> None:
    other = write_project(tmp_path / "other", {"shop/module.py": MANIFEST})
    foreign = token(other, "--scope", "shop:read").stdout
    assert (await answer(project, foreign))[0] == 401, "there is no key here"
    token(project)
    assert (await answer(project, foreign))[0] == 401, "this project has a key of its own"


@pytest.mark.integration
async def test_a_token_of_the_command_is_refused_outside_local(project: Path) -> None:
    sent = invoke(project, "token", "--scope", "shop:read").stdout
    dev = {"AUTH_ISSUER": "http://127.0.0.1:9", "AUTH_AUDIENCE": "us", "ENVIRONMENT": "dev"}
    assert (await answer(project, sent, **dev))[0] in {401, 503}, "the issuer that could confirm the key does not exist"


def test_outside_local_the_command_refuses_with_one_sentence(project: Path) -> None:
    variables = {"ENVIRONMENT": "dev", "AUTH_ENABLED": "false", "DATABASE_URL": "postgresql://u:p@h/d"}
    done = invoke(project, "token", **variables)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "These tokens are for local only, not for dev: get one from AUTH_ISSUER.\n"
