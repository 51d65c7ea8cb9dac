"""`kernel token`."""

from typing import Annotated

import typer

from kernel.cli.console import fail


def add_to(cli: typer.Typer) -> None:
    """Add this command to those of `kernel`."""
    cli.command()(token)


def token(
    subject: Annotated[str, typer.Option(help="The caller (the claim sub).")] = "developer",
    scope: Annotated[
        list[str] | None, typer.Option(help="A scope: events:write. Repeat the option for several.")
    ] = None,
    role: Annotated[
        list[str] | None, typer.Option(help="A role from AUTH_ROLES. Repeat the option for several.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.01, help="How long the token is valid.")] = 480,
) -> None:
    """Print a bearer token for development. It is signed with a local key and valid in LOCAL only."""
    from kernel.ext.bearer_tokens.settings import BearerSettings  # noqa: PLC0415
    from kernel.ext.local_tokens import key  # noqa: PLC0415  # so that `kernel --help` is quick
    from kernel.project import load_settings  # noqa: PLC0415

    settings = load_settings()
    if settings.application.environment != "local":
        fail(f"These tokens are for local only, not for {settings.application.environment}: get one from AUTH_ISSUER.")
    for unknown in sorted({*(role or ())} - settings.group(BearerSettings).roles.keys()):
        typer.echo(f"AUTH_ROLES has no role {unknown}: the token gets no scopes from it.", err=True)
    typer.echo(key.sign(key.path(settings.root), subject, scope or (), role or (), minutes * 60))
