"""The commands of modules: `kernel <module> ...`. A command that works with its module calls `in_module`."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kernel.cli.console import fail, load_kernel
from kernel.modules.manifest import ModuleContext

Result = TypeVar("Result")


def in_module(name: str, work: Callable[[ModuleContext], Awaitable[Result]]) -> Result:
    """Run `work` with a module's database, HTTP client and state, and return its result.

    No messages are delivered meanwhile.
    """
    from kernel.database.errors import DatabaseUnavailable  # noqa: PLC0415
    from kernel.logging import configure_logging  # noqa: PLC0415

    kernel = load_kernel()
    configure_logging(kernel.settings.log)
    context = kernel.contexts.get(name)
    if context is None:
        fail(f"{name} does not run in this process: ENABLED_MODULES leaves it out, or {name.upper()}_URL is set.")

    async def run() -> Result:
        async with kernel.running(serving=False):
            return await work(context)

    try:
        return asyncio.run(run())
    except DatabaseUnavailable as error:
        fail(f"{error}. Start the database, or correct its URL.")
