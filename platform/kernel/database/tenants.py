"""One module as the user of a pool that it shares with others: under which role, and with how many connections."""

import asyncio
from typing import Any

from sqlalchemy.engine import Engine
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.pool import PoolProxiedConnection

from kernel.database.errors import PoolShareExhausted


class Tenant:
    """A module's part in one pool.

    `role` is the PostgreSQL role of its sessions. `limit` is the number of connections that it may hold at a time, and
    `timeout` how long, in seconds, one more waits for one of those; both in the order in which they were asked for.
    """

    def __init__(self, module: str, role: str | None, limit: int | None, timeout: float) -> None:
        self.module = module
        self.role = role
        self._limit = limit
        self._timeout = timeout
        self._turns = None if limit is None else asyncio.Semaphore(limit)

    async def turn(self) -> None:
        """Wait until the module may hold one more connection. Raises PoolShareExhausted."""
        if self._turns is None:
            return
        if not self._turns.locked():
            await self._turns.acquire()  # at once
            return
        try:
            async with asyncio.timeout(self._timeout):
                await self._turns.acquire()
        except TimeoutError:
            raise PoolShareExhausted(
                f"{self.module} has had all {self._limit} connections of its share of the database pool in use for "
                f"{self._timeout:g} s (DATABASE_POOL_SHARE_PERCENT, DATABASE_POOL_SHARE_TIMEOUT_SECONDS)"
            ) from None

    def end_turn(self) -> None:
        """The module holds one connection less."""
        if self._turns is not None:
            self._turns.release()


class TenantEngine(OptionEngine):
    """An engine whose connections are taken from the pool in a module's name."""

    tenant: Tenant | None

    def __init__(self, engine: Engine, tenant: Tenant | None, options: dict[str, Any]) -> None:
        super().__init__(engine, options)
        self.tenant = tenant

    def execution_options(self, **options: Any) -> "TenantEngine":
        return TenantEngine(self, self.tenant, options)

    def raw_connection(self) -> PoolProxiedConnection:
        pool: Any = self.pool  # a BoundedPool, if it has tenants
        return super().raw_connection() if self.tenant is None else pool.connect_as(self.tenant)
