"""`kernel images ...`: what is to be done for images now and then."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from kernel import ModuleContext
from kernel.cli.console import fail, in_module
from modules.images.service import ForeignStorage, ImageService, Swept

app = typer.Typer(help="Look after the bytes of images.", no_args_is_help=True)


@app.command()
def sweep(
    delete: Annotated[bool, typer.Option("--delete", help="Delete them; else they are only counted.")] = False,
    older_than_hours: Annotated[float, typer.Option(min=0, help="Younger ones may belong to uploads under way.")] = 1,
) -> None:
    """Find bytes that no image has, which is what is left of uploads that were killed half way.

    It refuses if the storage is recorded as that of another database, whose images it would take for such bytes.
    """
    than = datetime.now(UTC) - timedelta(hours=older_than_hours)

    async def work(context: ModuleContext) -> Swept:
        service = context.get(ImageService)
        return await service.sweep(than, delete=delete)

    try:
        swept = in_module("images", work)
    except ForeignStorage as error:
        fail(f"{error}\nNothing was deleted.")
    typer.echo(
        f"{swept.objects:,} objects are older than {older_than_hours:g} h. {swept.orphans:,} of them "
        f"({swept.orphan_bytes:,} bytes) belong to no image, {swept.unfinished:,} more were never finished: "
        f"{'deleted' if delete else 'say --delete to delete them'}."
    )


@app.command()
def own() -> None:
    """Record this database as the only one whose images are in the storage, also where another one is recorded."""

    async def work(context: ModuleContext) -> list[str]:
        service = context.get(ImageService)
        return await service.become_only_owner()

    replaced = in_module("images", work)
    before = f" Before, it also belonged to {', '.join(replaced)}." if replaced else ""
    typer.echo(f"The storage of images belongs to this database alone.{before}")
