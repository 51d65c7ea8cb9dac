"""The commands that the boundary checks add to `kernel`."""

from pathlib import Path

import pytest

from tests.core.test_command import run

pytestmark = pytest.mark.integration


def test_help_names_the_commands(root: Path, tmp_path: Path) -> None:
    shown = run(root, tmp_path, "--help").stdout
    assert all(command in shown for command in ("check", "owners", "test", "contracts"))
