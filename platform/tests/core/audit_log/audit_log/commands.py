"""`kernel audit`: read the audit log."""

from typing import Annotated

import typer


def add_to(cli: typer.Typer) -> None:
    """Add the command to those of `kernel`."""
    cli.command()(audit)


def audit(last: Annotated[int, typer.Option(min=1, help="The number of lines.")] = 20) -> None:
    """Print the last lines of the audit log."""
    from audit_log.settings import AuditSettings  # noqa: PLC0415  # so that `kernel --help` is quick
    from kernel.project import load_settings  # noqa: PLC0415

    settings = load_settings()
    path = settings.root / settings.group(AuditSettings).file
    for line in path.read_text(encoding="utf-8").splitlines()[-last:]:
        typer.echo(line)
