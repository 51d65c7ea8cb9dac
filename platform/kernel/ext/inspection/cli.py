"""`kernel modules` and `kernel settings`."""

import json
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from kernel.cli.console import load_kernel, print_table


def add_to(cli: typer.Typer) -> None:
    """Add these commands to those of `kernel`."""
    cli.command()(modules)
    cli.command()(settings)


def modules(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the modules in the order of their start, and the addresses of those in other processes."""
    from kernel.modules.discovery import contracts_of  # noqa: PLC0415

    kernel = load_kernel()
    rows = [
        {
            "name": module.name,
            "owner": module.manifest.owner,
            "depends_on": sorted(module.manifest.depends_on),
            "provides": sorted(contract.__name__ for contract in module.manifest.provides),
            "prefix": module.prefix if module.router else None,
            "tables": sorted(module.metadata.tables) if module.metadata else [],
            "url": None,
        }
        for module in kernel.modules
    ]
    used = {name for module in kernel.modules for name in module.manifest.depends_on}
    rows += [
        {
            **dict.fromkeys(rows[0] if rows else ("name", "provides", "url")),
            "name": name,
            "provides": sorted(contract.__name__ for contract in contracts_of(kernel.settings.root, name)),
            "url": url,
        }
        for name, url in kernel.settings.elsewhere.items()
        if name in used
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    cells = ([", ".join(cell) if isinstance(cell, list) else str(cell or "") for cell in row.values()] for row in rows)
    _print([name.replace("_", " ").capitalize() for name in (rows[0] if rows else ())], cells)


def settings() -> None:
    """List all settings with their values and where each value comes from. Secrets are masked."""
    from kernel.ext.inspection.described import describe  # noqa: PLC0415
    from kernel.project import load_settings  # noqa: PLC0415

    _print(["Setting", "Value", "From"], describe(load_settings()))


def _print(names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.table import Table  # noqa: PLC0415

    table = Table(*names)
    for row in rows:
        table.add_row(*row)
    print_table(table)
