"""The commands `kernel images ...`, which maintain the storage."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from kernel import ModuleContext
from kernel.cli.console import fail
from kernel.ext.module_commands import in_module
from modules.images.service import ForeignStorage, ImageService, SweepResult

app = typer.Typer(help="Maintain the storage of images.", no_args_is_help=True)


@app.command()
def sweep(
    delete: Annotated[bool, typer.Option("--delete", help="Delete the files instead of only counting them.")] = False,
    older_than_hours: Annotated[float, typer.Option(min=0, help="Younger files may belong to running uploads.")] = 1,
) -> None:
    """Find files in the storage that belong to no image: the remains of interrupted uploads.

    The command refuses to run if the storage is recorded as that of another database, because it would take the files
    of that database for remains.
    """
    before = datetime.now(UTC) - timedelta(hours=older_than_hours)

    async def work(context: ModuleContext) -> SweepResult:
        service = context.get(ImageService)
        return await service.sweep(before, delete=delete)

    try:
        result = in_module("images", work)
    except ForeignStorage as error:
        fail(f"{error}\nNothing was deleted.")
    typer.echo(
        f"{result.objects:,} objects are older than {older_than_hours:g} h. {result.orphans:,} of them "
        f"({result.orphan_bytes:,} bytes) belong to no image, {result.unfinished:,} more were never finished: "
        f"{'deleted' if delete else 'run with --delete to delete them'}."
    )


@app.command()
def own() -> None:
    """Record this database as the only owner of the storage, and remove the records of other databases."""

    async def work(context: ModuleContext) -> list[str]:
        service = context.get(ImageService)
        return await service.become_only_owner()

    replaced = in_module("images", work)
    removed = f" Removed the records of {', '.join(replaced)}." if replaced else ""
    typer.echo(f"The storage of images now belongs to this database only.{removed}")
