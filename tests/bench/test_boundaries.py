"""The large project of the benchmark has no findings, and its check is timed."""

import subprocess
from pathlib import Path

import pytest

from bench.boundaries import timed, write_large

pytestmark = pytest.mark.slow


def test_the_large_project_is_clean_and_is_timed(tmp_path: Path) -> None:
    project = write_large(tmp_path / "large", modules=3)
    assert {f"m{number:03d}" for number in range(3)} <= {folder.name for folder in (project / "modules").iterdir()}
    assert timed(project, times=1) > 0  # Raises for a finding.
    (project / "modules" / "m000" / "router.py").write_text("import modules.m001.models")
    with pytest.raises(subprocess.CalledProcessError):
        timed(project, times=1)
