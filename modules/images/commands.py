"""`kernel images ...`: what is to be done for images now and then."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from kernel import ModuleContext
from kernel.console import in_module
from modules.images.service import ImageService, Swept

app = typer.Typer(help="Look after the bytes of images.", no_args_is_help=True)


@app.command()
def sweep(
    delete: Annotated[bool, typer.Option("--delete", help="Delete them; else they are only counted.")] = False,
    older_than_hours: Annotated[float, typer.Option(min=0, help="Younger ones may belong to uploads under way.")] = 1,
) -> None:
    """Find bytes that no image has, which is what is left of uploads that were killed half way."""
    than = datetime.now(UTC) - timedelta(hours=older_than_hours)

    async def work(context: ModuleContext) -> Swept:
        service: ImageService = context.state
        return await service.sweep(context.database, than, delete=delete)

    swept = in_module("images", work)
    typer.echo(
        f"{swept.objects:,} objects are older than {older_than_hours:g} h. {swept.orphans:,} of them "
        f"({swept.orphan_bytes:,} bytes) belong to no image, {swept.unfinished:,} more were never finished: "
        f"{'deleted' if delete else 'say --delete to delete them'}."
    )
