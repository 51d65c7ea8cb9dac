"""One module as a user of a pool that it shares with others: under which role, and with how many connections."""

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
    """Lets in a number of callers at a time, in the order in which they ask, each waiting at most `timeout` seconds."""

    def __init__(self, count: int, timeout: float, error: type[DatabaseUnavailable], reason: str) -> None:
        """Raise `error` with its `reason` for a caller that has waited that long."""
        super().__init__(count)
        self.limit = count
        self._timeout = timeout
        self._error = error
        self._reason = reason

    @property
    def in_use(self) -> int:
        """How many are taken."""
        return self.limit - self._value

    @property
    def waiting(self) -> int:
        """How many callers wait for one."""
        return len(self._waiters or ())

    async def take(self) -> None:
        """Wait for one; `release` ends it."""
        if not self.locked():
            await self.acquire()  # at once
            return
        try:
            async with asyncio.timeout(self._timeout):
                await self.acquire()
        except TimeoutError:
            raise self._error(self._reason) from None


class ModuleQuota:
    """A module's part in one pool.

    `role` is the PostgreSQL role of its connections, and `local_role` that of its transactions, behind a pooler.
    `limit` is the number of connections that it may hold at a time, and `timeout` how long it waits for one of those,
    in seconds.
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
    """An engine whose connections are taken from a BoundedPool in a module's name."""

    def __init__(self, engine: Engine, quota: ModuleQuota, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(engine, {**(options or {}), QUOTA: quota})
        self.quota = quota

    def execution_options(self, **options: Any) -> "QuotaEngine":
        return QuotaEngine(self, self.quota, options)

    def raw_connection(self) -> PoolProxiedConnection:
        pool: Any = self.pool
        connection: PoolProxiedConnection = pool.connect_for(self.quota)
        return connection
