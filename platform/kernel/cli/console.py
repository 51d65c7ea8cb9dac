"""Helpers of the commands: load the kernel of the project, end with an error, print a table."""

import sys
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from kernel.database.migrations import History
    from kernel.runtime import Kernel


def load_kernel() -> "Kernel":
    """Return the kernel of the project around the working directory. Nothing is opened."""
    from kernel.project import load_project  # noqa: PLC0415  # so that `--help` is quick
    from kernel.runtime import Kernel  # noqa: PLC0415  # so that `--help` is quick

    return Kernel(*load_project())


def histories(module: str | None) -> "list[History]":
    """Return the migrations of all modules with tables, or of one. A name of no such module ends the command."""
    found = list(load_kernel().histories())
    chosen = [history for history in found if module in {None, history.module}]
    if module is not None and not chosen:
        fail(f"There is no module {module} with tables. There are: {', '.join(one.module for one in found)}.")
    return chosen


def fail(message: str) -> NoReturn:
    """End the command with exit code 1."""
    typer.secho(message, fg="red", err=True)
    raise typer.Exit(1)


def print_table(table: "Table") -> None:
    """Print a table. In a file or a pipe it is as wide as its values, so that none is cut."""
    from rich.console import Console  # noqa: PLC0415

    Console(width=None if sys.stdout.isatty() else 1000).print(table)
