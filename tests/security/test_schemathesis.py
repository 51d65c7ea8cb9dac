"""Schemathesis reads the OpenAPI document and tests the application against it, with valid and invalid data."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.harness import KERNEL
from tests.security.serving import served

pytestmark = pytest.mark.slow

# `SCHEMATHESIS_EXAMPLES=1000` runs longer than is suitable for every change.
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "40")
SEED = "20300501"
# All checks with their default settings, except that a valid If-Match may get 412, which depends on the row.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "401", "403", "404", "409", "412", "429"]
"""


@pytest.mark.timeout(1800)
def test_the_application_conforms_to_its_openapi_document(root: Path, tmp_path: Path, empty_url: str) -> None:
    token = subprocess.run([KERNEL, "token", "--scope", "*"], cwd=root, capture_output=True, text=True, check=True)
    with served(root, tmp_path, empty_url, AUTH_ENABLED="true") as server:
        (tmp_path / "schemathesis.toml").write_text(CONFIG)
        command = [str(Path(sys.executable).with_name("schemathesis")), "run"]
        command += [f"http://127.0.0.1:{server.port}/openapi.json", "--checks", "all", "--mode", "all"]
        command += ["--seed", SEED, "--max-examples", EXAMPLES, "--continue-on-failure", "--no-color"]
        command += ["--generation-database", "none", "--header", f"Authorization: Bearer {token.stdout.strip()}"]
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.security.schemathesis_hooks", "PYTHONPATH": str(root)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert server.is_alive()
    print(done.stdout[done.stdout.find("SUMMARY") :])  # noqa: T201  # the figures
    assert done.returncode == 0, done.stdout + done.stderr
    for phase in ("Coverage", "Fuzzing", "Stateful"):
        assert f"✅ {phase}" in done.stdout, f"{phase} did not run"
