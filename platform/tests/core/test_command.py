"""The command `kernel`: its output, its exit codes, and the server that it runs, on real sockets."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.core.commands import invoke

pytestmark = pytest.mark.integration

KERNEL = Path(sys.executable).parent / "kernel"
needs_health = pytest.mark.skipif(
    not (Path(__file__).parents[3] / "modules" / "health").exists(), reason="health was removed"
)


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Return the environment of this process without settings."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
    secrets = folder / "secrets"
    secrets.mkdir(exist_ok=True)
    return kept | {
        "DATABASE_URL": f"sqlite:///{folder / 'data'}",
        "IMAGES_STORAGE_URL": str(folder / "images"),
        "SECRETS_DIR": str(secrets),
        **variables,
    }


def run(root: Path, folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = environment(folder, **variables)
    return subprocess.run(
        [KERNEL, *arguments], cwd=root, env=env, capture_output=True, text=True, check=False, timeout=60
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(root: Path, folder: Path, *arguments: str, **variables: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a server on a free port; yield its base URL and its process."""
    port = free_port()
    process = subprocess.Popen(
        [KERNEL, "serve", "--port", str(port), *arguments],
        cwd=root,
        env=environment(folder, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    base = f"http://127.0.0.1:{port}"
    try:
        give_up_at = time.monotonic() + 30
        # Without certificates, which take 60 ms to read.
        with httpx2.Client(timeout=2, trust_env=False, verify=False) as client:
            while time.monotonic() < give_up_at and process.poll() is None:
                try:
                    if client.get(f"{base}/health/startup").status_code == 200:
                        break
                except httpx2.TransportError:
                    time.sleep(0.05)
        yield base, process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=30)


def test_help_names_the_commands(root: Path) -> None:
    shown = invoke(root, "--help").stdout
    assert all(command in shown for command in ("serve", "migrate"))


@pytest.mark.slow
@pytest.mark.parametrize("command", [("serve",), ("migrate",)])
def test_invalid_settings_end_every_command_with_all_errors_in_one_message(
    root: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    done = run(root, tmp_path, *command, ENVIRONMENT="prod", DATABASE_POOLSIZE="hunter2", APPLICATION_DEBUG="true")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for fault in ("DATABASE_URL: ", "Did you mean DATABASE_POOL_SIZE?", "APPLICATION_DEBUG: "):
        assert fault in done.stderr
    assert "hunter2" not in done.stderr


@needs_health
@pytest.mark.slow
def test_migrate_creates_the_tables_and_check_reports_missing_ones(root: Path, tmp_path: Path) -> None:
    before = run(root, tmp_path, "migrate", "--check")
    assert before.returncode == 1
    assert "health lacks migration 0001" in before.stderr
    assert "health: at its newest migration" in run(root, tmp_path, "migrate").stdout
    after = run(root, tmp_path, "migrate", "--check")
    assert (after.returncode, "Every database is at its newest migration" in after.stdout) == (0, True)
    assert run(root, tmp_path, "migrate", "health", "--down-to", "base").returncode == 0
    assert run(root, tmp_path, "migrate", "--check").returncode == 1


def test_an_unknown_module_is_reported(root: Path, tmp_path: Path) -> None:
    done = invoke(root, "migrate", "ghost", **environment(tmp_path))
    assert (done.returncode, "There is no module ghost" in done.stderr) == (1, True)


def test_a_taken_port_is_reported_in_one_sentence(root: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(root, tmp_path, "serve", "--port", str(port))
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert f"127.0.0.1:{port}" in done.stderr
    assert "make run PORT=" in done.stderr


@needs_health
def test_a_server_prints_its_address_serves_and_stops_at_a_signal(root: Path, tmp_path: Path) -> None:
    with serving(root, tmp_path, "--no-reload", LOG_FORMAT="json") as (base, process):
        answer = httpx2.get(f"{base}/health/ready", headers={"x-request-id": "seen-in-the-log"}, trust_env=False)
        assert answer.json() == {"status": "ready"}
        assert "server" not in answer.headers
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert f"{base}/health" in output
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    [request] = [line for line in lines if line.get("request_id") == "seen-in-the-log"]
    assert (request["status"], request["path"], request["level"]) == (200, "/health/ready", "info")


@needs_health
@pytest.mark.slow
def test_a_server_with_auto_reload_serves_too(root: Path, tmp_path: Path) -> None:
    with serving(root, tmp_path, "--reload") as (base, _):
        assert httpx2.get(f"{base}/health/live", trust_env=False).status_code == 200


def test_a_database_without_the_newest_migration_stops_the_start_with_one_sentence(root: Path, tmp_path: Path) -> None:
    started_at = time.monotonic()
    done = run(root, tmp_path, "serve", "--port", str(free_port()), ENVIRONMENT="dev", AUTH_ENABLED="false")
    assert done.returncode != 0
    assert "run `kernel migrate` before the start" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert time.monotonic() - started_at < 10
