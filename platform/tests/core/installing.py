"""Distributions that a test adds to a process, and `kernel` commands in that process."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
SAMPLES = HERE / "samples"
KERNEL = Path(sys.executable).with_name("kernel")
_KEPT_VARIABLES = {"PATH", "HOME", "LANG", "TMPDIR"}


def declare(folder: Path, points: Mapping[str, str]) -> Path:
    """Write the metadata of a distribution with these entry points of `kernel.extensions`; return its folder."""
    info = folder / "sample_extensions-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sample-extensions\nVersion: 1.0\n")
    lines = [f"{name} = {value}\n" for name, value in points.items()]
    (info / "entry_points.txt").write_text(f"[kernel.extensions]\n{''.join(lines)}")
    return folder


def run_with(packages: Path, project: Path, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of a project in a process that also has these packages and the sample extensions."""
    environment = {name: value for name, value in os.environ.items() if name in _KEPT_VARIABLES}
    environment |= {
        "PYTHONPATH": os.pathsep.join(map(str, (packages, SAMPLES))),
        "DATABASE_URL": f"sqlite:///{project / 'data'}",
        **variables,
    }
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
