"""`kernel migration`."""

import asyncio
from typing import Annotated

import typer

from kernel.cli.console import histories


def add_to(cli: typer.Typer) -> None:
    """Add this command to those of `kernel`."""
    cli.command()(migration)


def migration(
    module: Annotated[str, typer.Argument(help="The module whose models changed.")],
    message: Annotated[str, typer.Option("-m", "--message", help="A short description of the change.")],
) -> None:
    """Write the migration that turns a module's tables into its models."""
    from kernel.ext.autogenerate.comparison import write  # noqa: PLC0415

    [history] = histories(module)
    typer.echo(f"Wrote {asyncio.run(write(history, message))}. Read it before you commit it.")
