"""Helpers of the commands: load the kernel of the project, end with an error, print a table."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from kernel.database.migrations import History
    from kernel.modules.manifest import ModuleContext
    from kernel.runtime import Kernel

Result = TypeVar("Result")


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


def in_module(name: str, work: "Callable[[ModuleContext], Awaitable[Result]]") -> Result:
    """Run `work` with a module's database, HTTP client and state, and return its result.

    No messages are delivered meanwhile.
    """
    from kernel.database.errors import DatabaseUnavailable  # noqa: PLC0415
    from kernel.logging import configure_logging  # noqa: PLC0415

    kernel = load_kernel()
    configure_logging(kernel.settings.log)
    context = kernel.contexts.get(name)
    if context is None:
        fail(f"{name} does not run in this process: ENABLED_MODULES leaves it out, or {name.upper()}_URL is set.")

    async def run() -> Result:
        async with kernel.running(serving=False):
            return await work(context)

    try:
        return asyncio.run(run())
    except DatabaseUnavailable as error:
        fail(f"{error}. Start the database, or correct its URL (`kernel settings` shows it).")


def fail(message: str) -> NoReturn:
    """End the command with exit code 1."""
    typer.secho(message, fg="red", err=True)
    raise typer.Exit(1)


def print_table(table: "Table") -> None:
    """Print a table. In a file or a pipe it is as wide as its values, so that none is cut."""
    from rich.console import Console  # noqa: PLC0415

    Console(width=None if sys.stdout.isatty() else 1000).print(table)
