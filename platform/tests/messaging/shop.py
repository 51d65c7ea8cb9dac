"""A project of two modules: shop publishes orders, and mail writes a letter for each.

Neither contains code for tests.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx2

from kernel.application import Application
from kernel.ext.messaging.outbox import publish
from kernel.runtime import Kernel
from kernel.testing import settings_for
from tests.core.project import FROM_MODELS, imported_alone, modules_of, running_project, write_project

FILES = modules_of(Path(__file__).with_name("project"))


def write_shop(root: Path, files: Mapping[str, str] | None = None) -> dict[str, str]:
    """Write the project to `root` with these files instead of or beside its own; return its modules' files."""
    everything = {**FILES, **(files or {})}
    write_project(root, everything)
    for module in ("shop", "mail"):
        folder = root / "migrations" / module
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "0001_first.py").write_text(FROM_MODELS)
    return everything


@asynccontextmanager
async def running_shop(
    root: Path, database_url: str, files: Mapping[str, str] | None = None, **variables: str
) -> AsyncIterator[tuple[Application, httpx2.AsyncClient]]:
    """Run both modules in this process, with short pauses by default."""
    quick = {"MESSAGING_POLL_SECONDS": "0.2", "MESSAGING_BACKOFF_SECONDS": "0.05", "DATABASE_URL": database_url}
    async with running_project(root, write_shop(root, files), quick | variables) as running:
        yield running


@asynccontextmanager
async def shop_kernel(root: Path, database_url: str, **variables: str) -> AsyncIterator[Kernel]:
    """Provide the kernel of the project with its tables, without a relay, whose work the tests do."""
    with imported_alone():
        write_shop(root)
        kernel = Kernel(settings_for(root, {"DATABASE_URL": database_url, **variables}))
        async with kernel.running(serving=False):
            yield kernel


async def place(kernel: Kernel, number: int, customer: str | None = None, pause: float = 0) -> None:
    """Place an order as the router would, in this process, in a transaction that takes `pause` seconds."""
    # Modules of the project, which can only be imported now.
    order, placed = import_module("modules.shop.models").Order, import_module("modules.shop.contract").OrderPlaced
    async with kernel.contexts["shop"].database.transaction() as session:
        session.add(order(number=number))
        await session.flush()
        await publish(placed(number=number, customer=customer))
        if pause:
            await asyncio.sleep(pause)


async def rows(app: Application | Kernel, module: str, table: str) -> list[dict[str, Any]]:
    """Return all rows of a module's table, sorted by their first column."""
    kernel = app.kernel if isinstance(app, Application) else app
    found = next(one for one in kernel.modules if one.name == module)
    assert found.metadata is not None
    wanted = found.metadata.tables[table]
    async with kernel.contexts[module].database.read() as session:
        selected = await session.execute(wanted.select().order_by(next(iter(wanted.c))))
        return [dict(row) for row in selected.mappings()]
