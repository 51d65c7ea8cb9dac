"""`kernel <module> ...`: the commands of a module, from its commands.py, which is imported when one of them runs."""

import importlib
import sys
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from kernel.cli.console import fail
from kernel.settings import SettingsError, find_root


def add_to(cli: typer.Typer) -> None:
    """Add the commands of the modules of the project around the working directory."""
    cli.info.cls = WithModules


class WithModules(TyperGroup):
    """The kernel's commands, and those of the modules of the project around the working directory."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *_found()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own, path = super().get_command(ctx, cmd_name), _found().get(cmd_name)
        if own is not None and path is not None:
            fail(f"{path}: the kernel has a command {cmd_name}, too. Rename the module.")
        return own if path is None else _OfModule(name=cmd_name, help=f"Commands of the module {cmd_name}.")


class _OfModule(TyperGroup):
    """The commands of a module, imported when one of them runs."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        root = find_root()
        if str(root) not in sys.path:
            sys.path.insert(0, str(root))
        app = getattr(importlib.import_module(f"modules.{self.name}.commands"), "app", None)
        if not isinstance(app, typer.Typer):
            fail(f"modules/{self.name}/commands.py has no app. Add `app = typer.Typer()` and its commands.")
        return typer.main.get_group(app).make_context(info_name, args, parent, **extra)


def _found() -> dict[str, Path]:
    """Return the commands.py of each module that has one; none outside a project."""
    try:
        root = find_root()
    except SettingsError:
        return {}
    return {path.parent.name: path for path in sorted((root / "modules").glob("*/commands.py"))}
