"""What all commands need: the application's kernel, a word that ends them, and tables."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from kernel.modules.manifest import ModuleContext
    from kernel.runtime import Kernel

Result = TypeVar("Result")


def load_kernel() -> "Kernel":
    """The kernel of the project that we are in; nothing of it is opened."""
    from kernel.project import load_project  # noqa: PLC0415  # so that `--help` is quick
    from kernel.runtime import Kernel  # noqa: PLC0415  # so that `--help` is quick

    return Kernel(*load_project())


def in_module(name: str, work: "Callable[[ModuleContext], Awaitable[Result]]") -> Result:
    """What `work` gives, done as a part of the application: with the module's databases, client and state, all open.

    No messages are delivered meanwhile.
    """
    from kernel.database.errors import DatabaseUnavailable  # noqa: PLC0415
    from kernel.logging import configure_logging  # noqa: PLC0415

    kernel = load_kernel()
    configure_logging(kernel.settings.log)
    context = kernel.contexts.get(name)
    if context is None:
        fail(f"The module {name} does not run here: ENABLED_MODULES leaves it out, or it runs elsewhere.")

    async def run() -> Result:
        async with kernel.running(serving=False):
            return await work(context)

    try:
        return asyncio.run(run())
    except DatabaseUnavailable as error:
        fail(f"{error}. Is it up? `kernel settings` shows which database is meant.")


def fail(message: str) -> NoReturn:
    """End the command with exit code 1."""
    typer.secho(message, fg="red", err=True)
    raise typer.Exit(1)


def print_table(table: "Table") -> None:
    """As wide as it needs when nobody looks at it: a value must not be cut in a file."""
    from rich.console import Console  # noqa: PLC0415

    Console(width=None if sys.stdout.isatty() else 1000).print(table)
