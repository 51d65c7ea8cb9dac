"""The quota of a module in a pool that it shares with others: its role and its number of connections."""

import asyncio
from collections.abc import Mapping
from typing import Any

from sqlalchemy.engine import Engine
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.pool import PoolProxiedConnection

from kernel.database.errors import DatabaseUnavailable
from kernel.ext.pool.errors import PoolShareExhausted

# An option of engines: the quota of the module that uses it.
QUOTA = "kernel_quota"


class FairSemaphore(asyncio.Semaphore):
    """Admits a number of callers at a time, in the order of their calls. Each waits at most `timeout` seconds."""

    def __init__(self, count: int, timeout: float, error: type[DatabaseUnavailable], reason: str) -> None:
        """Raise `error` with its `reason` for a caller that has waited `timeout` seconds."""
        super().__init__(count)
        self.limit = count
        self._timeout = timeout
        self._error = error
        self._reason = reason

    @property
    def in_use(self) -> int:
        """Return how many places are taken."""
        return self.limit - self._value

    @property
    def waiting(self) -> int:
        """Return how many callers wait for a place."""
        return len(self._waiters or ())

    async def take(self) -> None:
        """Wait for a place; `release` frees it."""
        if not self.locked():
            await self.acquire()  # Without waiting.
            return
        try:
            async with asyncio.timeout(self._timeout):
                await self.acquire()
        except TimeoutError:
            raise self._error(self._reason) from None


class ModuleQuota:
    """The quota of a module in one pool.

    `role` is the PostgreSQL role of its connections; behind a pooler, `local_role` is that of its transactions. `limit`
    is the number of connections that it may hold at a time, and `timeout` the seconds that it waits for one of those.
    """

    def __init__(
        self, module: str, role: str | None, limit: int | None, timeout: float, local_role: str | None = None
    ) -> None:
        self.module = module
        self.role = role
        self.local_role = local_role
        reason = (
            f"{module} has had all {limit} connections of its share of the database pool in use for {timeout:g} s "
            "(DATABASE_POOL_SHARE_PERCENT, DATABASE_POOL_SHARE_TIMEOUT_SECONDS)"
        )
        self.share = None if limit is None else FairSemaphore(limit, timeout, PoolShareExhausted, reason)


class QuotaEngine(OptionEngine):
    """An engine that takes its connections from a BoundedPool for a module."""

    def __init__(self, engine: Engine, quota: ModuleQuota, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(engine, {**(options or {}), QUOTA: quota})
        self.quota = quota

    def execution_options(self, **options: Any) -> "QuotaEngine":
        return QuotaEngine(self, self.quota, options)

    def raw_connection(self) -> PoolProxiedConnection:
        pool: Any = self.pool
        connection: PoolProxiedConnection = pool.connect_for(self.quota)
        return connection
