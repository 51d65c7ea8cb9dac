"""The command that roles adds to `kernel`."""

from pathlib import Path

from tests.core.commands import invoke


def test_help_names_the_command(root: Path) -> None:
    assert "roles" in invoke(root, "--help").stdout
