"""The commands that the boundary checks add to `kernel`."""

from pathlib import Path

from tests.core.commands import invoke


def test_help_names_the_commands(root: Path) -> None:
    shown = invoke(root, "--help").stdout
    assert all(command in shown for command in ("check", "owners", "test", "contracts"))
