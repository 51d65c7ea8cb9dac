"""`kernel roles`."""

import asyncio
from typing import Annotated

import typer

from kernel.cli.console import load_kernel


def add_to(cli: typer.Typer) -> None:
    """Add this command to those of `kernel`."""
    cli.command()(roles)


def roles(
    apply: Annotated[bool, typer.Option("--apply", help="Run it; it may be run again.")] = False,
    login: Annotated[
        list[str] | None, typer.Option(help="The user that serves, if it is another than the one that migrates.")
    ] = None,
) -> None:
    """Print the SQL that gives each module two PostgreSQL roles: the owner of its schema, and one for its rows only.

    Run it before `kernel migrate`, as the user who migrates, and again after a module is added.
    """
    from kernel.ext.roles.roles import PostgresqlRoles, apply_roles  # noqa: PLC0415
    from kernel.ext.roles.settings import RoleSettings  # noqa: PLC0415

    kernel = load_kernel()
    found = PostgresqlRoles(kernel.pool, kernel.settings.group(RoleSettings).role_prefix).all()
    if not found:
        typer.echo("There is nothing to do: no module is on PostgreSQL, and SQLite has no roles.")
    elif apply:
        asyncio.run(apply_roles(found, kernel.settings.database, login or ()))
        typer.echo(f"Applied: {', '.join(role.name for role in found)}")
    else:
        for role in found:
            typer.echo(f"-- {role.module}, in {role.direct_url.render_as_string()}\nBEGIN;")
            for statement in role.statements(login or ()):
                typer.echo(f"{statement};")
            typer.echo("COMMIT;")
