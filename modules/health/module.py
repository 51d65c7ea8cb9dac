"""The manifest of health."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kernel import Module, ModuleContext
from modules.health.service import HealthMonitor
from modules.health.settings import HealthSettings


@asynccontextmanager
async def _monitor(context: ModuleContext) -> AsyncIterator[HealthMonitor]:
    assert isinstance(context.settings, HealthSettings)  # noqa: S101  # for the type checker: it is in settings.py
    monitor = HealthMonitor(context.database, context.settings)
    yield monitor
    await monitor.written()


module = Module(owner="platform-team", lifespan=_monitor)
