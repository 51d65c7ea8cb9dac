"""The commands `kernel chores ...`."""

import typer

from kernel import ModuleContext
from kernel.ext.module_commands import in_module

app = typer.Typer(help="Do chores.", no_args_is_help=True)


@app.command()
def name() -> None:
    """Print the name of the module."""

    async def work(context: ModuleContext) -> str:
        return context.name

    typer.echo(in_module("chores", work))
