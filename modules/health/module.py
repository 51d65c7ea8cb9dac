"""The manifest of health."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kernel import Module, ModuleContext
from modules.health.service import HealthMonitor
from modules.health.settings import HealthSettings


@asynccontextmanager
async def _monitor(context: ModuleContext) -> AsyncIterator[HealthMonitor]:
    monitor = HealthMonitor(context.database, context.get(HealthSettings))
    yield monitor
    await monitor.written()


module = Module(owner="platform-team", lifespan=_monitor)
