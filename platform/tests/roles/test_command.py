"""The command that roles adds to `kernel`."""

from pathlib import Path

import pytest

from tests.core.test_command import run

pytestmark = pytest.mark.integration


def test_help_names_the_command(root: Path, tmp_path: Path) -> None:
    assert "roles" in run(root, tmp_path, "--help").stdout
