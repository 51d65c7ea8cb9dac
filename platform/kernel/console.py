"""What all commands need: the application's kernel, a word that ends them, and tables."""

import sys
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from kernel.app import Kernel


def load_kernel() -> "Kernel":
    """The kernel of the project that we are in; nothing of it is opened."""
    from kernel.app import Kernel, load_project  # noqa: PLC0415  # so that `--help` is quick

    return Kernel(*load_project())


def fail(message: str) -> NoReturn:
    """End the command with exit code 1."""
    typer.secho(message, fg="red", err=True)
    raise typer.Exit(1)


def print_table(table: "Table") -> None:
    """As wide as it needs when nobody looks at it: a value must not be cut in a file."""
    from rich.console import Console  # noqa: PLC0415

    Console(width=None if sys.stdout.isatty() else 1000).print(table)
